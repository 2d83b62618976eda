// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

var programs = []string{"deltaplane", "watcher", "compiler", "programmer"}

// bin is where TestMain put the binaries that documents call.
var bin string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	bin, err = testkit.Build()
	defer os.RemoveAll(bin)
	if err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// Asking for help checks a command's name and flags, and does nothing else.
func TestCommandsInDocumentsExist(t *testing.T) {
	asked := map[string]bool{}
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			if !strings.HasPrefix(b.info, "console") {
				continue
			}
			for _, c := range b.commands() {
				check(t, asked, d.path, c.line)
			}
		}
	}
	t.Logf("%d commands", len(asked))
}

// check asks each of our programs on the line for help, unless it was asked the same before.
func check(t *testing.T, asked map[string]bool, path, line string) {
	t.Helper()
	for part := range strings.SplitSeq(strings.ReplaceAll(line, "|", "&&"), "&&") {
		words := strings.Fields(part)
		words = slices.DeleteFunc(words, func(w string) bool { return w == "sudo" || w == "&" || assignment.MatchString(w) })
		if len(words) == 0 || !slices.Contains(programs, filepath.Base(words[0])) {
			continue
		}
		args := words[1:]
		if dash := slices.Index(args, "--"); dash >= 0 {
			args = args[:dash]
		}
		args = append(slices.Clip(args), "--help")
		command := exec.Command(filepath.Join(bin, filepath.Base(words[0])), args...)
		if asked[command.String()] {
			continue
		}
		asked[command.String()] = true
		out, err := command.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s: %v\n%s", path, line, err, out)
		}
	}
}

var assignment = regexp.MustCompile(`^[A-Z_]+=`)

func TestBlocksMarkedRunPrintWhatIsShown(t *testing.T) {
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			if b.info != "console run" {
				continue
			}
			for _, c := range b.commands() {
				shell := exec.Command("bash", "-euo", "pipefail", "-c", strings.ReplaceAll(c.line, "bin/", bin+"/"))
				shell.Dir = root
				shell.Env = append(os.Environ(), "NO_COLOR=1")
				out, err := shell.CombinedOutput()
				if err != nil {
					t.Errorf("%s: %s: %v\n%s", d.path, c.line, err, out)
				}
				if diff := cmp.Diff(trimmed(c.output), trimmed(string(out))); diff != "" {
					t.Errorf("%s: %s (-document +output):\n%s", d.path, c.line, diff)
				}
			}
		}
	}
}

// trimmed drops what doesn't show: spaces at the ends of lines, empty lines at the end.
func trimmed(text string) []string {
	lines := strings.Split(strings.TrimRight(text, " \n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

func TestMakeTargetsInDocumentsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("(?m)(?:^\\$ |`|&& )make ([a-z-]+)")
	for _, d := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(d.text, -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
				t.Errorf("%s: make %s: there is no such target", d.path, m[1])
			}
		}
	}
}

// Documents name files and folders, never lines. What they name must be there.
func TestPathsInDocumentsExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	code := regexp.MustCompile("`((?:bpf|cmd|deploy|docs|examples|internal|schemas|services|test)/[A-Za-z0-9_./-]*)`")
	for _, d := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(d.text, -1) {
			exists(t, d, filepath.Join(filepath.Dir(d.path), m[1]))
		}
		for _, m := range code.FindAllStringSubmatch(d.text, -1) {
			exists(t, d, m[1])
		}
	}
}

func exists(t *testing.T, d document, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		t.Errorf("%s names %s: %v", d.path, path, err)
	}
}
