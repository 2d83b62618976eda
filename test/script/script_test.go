// SPDX-License-Identifier: Apache-2.0

// Package script runs stories in testdata: YAML in, commands, and what a person sees. Each is a txtar file; see
// github.com/rogpeppe/go-internal/testscript for the language. They need no cluster, no bus and no privileges.
package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// bin is where TestMain put the binary.
var bin string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "deltaplane-script-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "deltaplane"), "github.com/deltaplane/deltaplane/cmd/deltaplane")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build deltaplane: %w\n%s", err, out)
	}
	if err := os.Symlink("deltaplane", filepath.Join(dir, "kubectl-deltaplane")); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			// A bus that isn't there, so that no script talks to one that happens to run here.
			e.Setenv("DELTAPLANE_BUS", "nats://127.0.0.1:1")
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "kernel" {
				return false, fmt.Errorf("condition %q: want kernel", name)
			}
			return os.Getenv(testkit.RequireKernel) == "1" || bpf.Probe() == nil, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits runs a command and checks its exit code: exits CODE COMMAND ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v: %v", args[1:], err)
	}
	if code != args[0] {
		ts.Fatalf("%v: exit code %s, want %s", args[1:], code, args[0])
	}
}
