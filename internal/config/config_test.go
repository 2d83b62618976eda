// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// settings of a service that is only here.
type settings struct {
	Common
	Replicas int
	Share    float64
	Wait     time.Duration
	Paths    []string
	Dry      bool
	Token    string
}

func (s *settings) Flags(flags *pflag.FlagSet) {
	s.Common.Flags(flags, ":9090")
	flags.IntVar(&s.Replicas, "replicas", 1, "`number` of replicas")
	flags.Float64Var(&s.Share, "max-delete-share", 0.5, "`share` of all objects")
	flags.DurationVar(&s.Wait, "wait", time.Second, "how `long` to wait")
	flags.StringSliceVar(&s.Paths, "path", nil, "`paths` to read")
	flags.BoolVar(&s.Dry, "dry", false, "change nothing")
	flags.StringVar(&s.Token, "token", "", "a `text`")
}

// run runs the command with args, a file's text (none if empty) and variables. It returns the settings that the
// service was run with, nil if it wasn't, and what was printed.
func run(t *testing.T, file string, env map[string]string, args ...string) (*settings, string, string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	if file != "" {
		args = append(args, "--config", write(t, file))
	}
	var s settings
	var ran *settings
	cmd := Command("thing", "Do a thing.", "# do it\nthing --dry", &s, func(context.Context) error { ran = &s; return nil })
	var stdout, stderr bytes.Buffer
	cmd.SetOut(&stdout)
	cmd.SetArgs(args)
	execute(t.Context(), cmd, &stderr)
	return ran, stdout.String(), stderr.String()
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "thing.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsComeBeforeEnvironmentBeforeFileBeforeDefault(t *testing.T) {
	file := "bus: nats://file\nlisten: :1\nlog-level: debug\nreplicas: 1000000\nmax-delete-share: 0.25\nwait: 5s\npath: [a, b]\ndry: true\n"
	env := map[string]string{"DELTAPLANE_BUS": "nats://env", "DELTAPLANE_LISTEN": ":2"}
	got, _, stderr := run(t, file, env, "--bus", "nats://flag")
	if got == nil {
		t.Fatal(stderr)
	}
	want := &settings{
		Common:   Common{Bus: "nats://flag", Listen: ":2", LogLevel: "debug", LogFormat: "text"},
		Replicas: 1_000_000, Share: 0.25, Wait: 5 * time.Second, Paths: []string{"a", "b"}, Dry: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFileCanBeNamedInTheEnvironment(t *testing.T) {
	path := write(t, "replicas: 7\n")
	got, _, stderr := run(t, "", map[string]string{"DELTAPLANE_CONFIG": path})
	if got == nil || got.Replicas != 7 {
		t.Errorf("got %+v, %s", got, stderr)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, test := range []struct {
		name, file string
		env        map[string]string
		args       []string
		want       []string
	}{
		{name: "unknown key", file: "log-levl: debug\n", want: []string{"thing.yaml: unknown key \"log-levl\": did you mean \"log-level\"?"}},
		{name: "key in capitals", file: "Replicas: 2\n", want: []string{"did you mean \"replicas\"?"}},
		{name: "key twice", file: "replicas: 1\nreplicas: 2\n", want: []string{"thing.yaml", "\"replicas\" already"}},
		{name: "not YAML", file: "replicas: [\n", want: []string{"thing.yaml: not YAML"}},
		{name: "no keys", file: "- replicas\n", want: []string{"want keys and values"}},
		{name: "keys below a key", file: "bus:\n  url: x\n", want: []string{"thing.yaml: bus: want a plain value"}},
		{name: "list for one value", file: "bus: [a]\n", want: []string{"bus: want one value, not a list"}},
		{name: "no value", file: "bus:\n", want: []string{"bus: no value"}},
		{name: "wrong type in the file", file: "replicas: many\n", want: []string{"thing.yaml: replicas:", "many"}},
		{name: "wrong type in the environment", env: map[string]string{"DELTAPLANE_REPLICAS": "many"}, want: []string{"environment DELTAPLANE_REPLICAS=\"many\""}},
		{name: "wrong type in a flag", args: []string{"--replicas", "many"}, want: []string{"invalid argument \"many\" for \"--replicas\""}},
		{name: "unknown flag", args: []string{"--replica", "2"}, want: []string{"unknown flag: --replica"}},
		{name: "argument", args: []string{"replicas"}, want: []string{"unknown command \"replicas\""}},
		{name: "no such file", args: []string{"--config", "/does/not/exist.yaml"}, want: []string{"/does/not/exist.yaml"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ran, _, stderr := run(t, test.file, test.env, test.args...)
			if ran != nil {
				t.Error("the service was run")
			}
			for _, want := range append(test.want, "thing: ") {
				if !strings.Contains(stderr, want) {
					t.Errorf("got %q, want it to say %q", stderr, want)
				}
			}
		})
	}
}

func TestPrintConfigSaysWhereEachValueComesFrom(t *testing.T) {
	path := write(t, "path: [a, \"b c\"]\nlog-format: json\n")
	t.Setenv("DELTAPLANE_REPLICAS", "3")
	ran, stdout, stderr := run(t, "", nil, "--print-config", "--config", path, "--bus", "nats://me:secret@host:4222", "--token", "yes")
	if ran != nil || stderr != "" {
		t.Errorf("run %v, %s", ran != nil, stderr)
	}
	want := []string{
		"# The settings of thing in force, with their origin.",
		`bus: nats://me:xxxxx@host:4222 # flag --bus`,
		`bus-ca: "" # default`,
		`bus-credentials: "" # default`,
		`dry: false # default`,
		`listen: :9090 # default`,
		`log-format: json # file ` + path,
		`log-level: info # default`,
		`max-delete-share: 0.5 # default`,
		`path: [a, b c] # file ` + path,
		`replicas: 3 # environment DELTAPLANE_REPLICAS`,
		`token: "yes" # flag --token`,
		`wait: 1s # default`,
	}
	var got []string
	for line := range strings.Lines(stdout) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What --print-config prints can be given to --config.
func TestPrintedSettingsAreAFile(t *testing.T) {
	_, stdout, _ := run(t, "", nil, "--print-config", "--path", "a,b: c,#d", "--token", "- x: '1'", "--wait", "1m", "--listen", "")
	got, _, stderr := run(t, stdout, nil)
	want := &settings{
		Common:   Common{Bus: "nats://127.0.0.1:4222", LogLevel: "info", LogFormat: "text"},
		Replicas: 1, Share: 0.5, Wait: time.Minute, Paths: []string{"a", "b: c", "#d"}, Token: "- x: '1'",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s\n%s", diff, stdout, stderr)
	}
}

func TestHelpHasExamplesAndSaysHowElseToSet(t *testing.T) {
	_, stdout, _ := run(t, "", nil, "--help")
	for _, want := range []string{"Do a thing.", "Examples:\n  # do it\n  thing --dry", "DELTAPLANE_<FLAG>", "--log-level level", "--bus URL"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("help doesn't say %q:\n%s", want, stdout)
		}
	}
}

func TestErrorsOfTheServiceEndWithStatusOne(t *testing.T) {
	var stderr bytes.Buffer
	cmd := Command("thing", "Do a thing.", "thing", &settings{}, func(context.Context) error { return errors.New("it broke") })
	cmd.SetArgs(nil)
	if status := execute(t.Context(), cmd, &stderr); status != 1 || stderr.String() != "thing: it broke\n" {
		t.Errorf("status %d, %q", status, stderr.String())
	}
}
