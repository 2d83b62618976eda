// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var programs = []string{"deltaplane", "watcher", "compiler", "programmer"}

// build makes the binaries that documents call.
func build(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	args := []string{"build", "-o", bin + string(filepath.Separator), "./cmd/deltaplane", "./services/watcher", "./services/compiler", "./services/programmer"}
	command := exec.Command("go", args...)
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return bin
}

// Asking for help checks a command's name and flags, and does nothing else.
func TestCommandsInDocumentsExist(t *testing.T) {
	bin := build(t)
	checked := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			if !strings.HasPrefix(b.info, "console") {
				continue
			}
			for _, c := range b.commands() {
				checked += check(t, bin, d.path, c.line)
			}
		}
	}
	t.Logf("%d commands", checked)
}

func check(t *testing.T, bin, path, line string) int {
	t.Helper()
	checked := 0
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
		checked++
		out, err := exec.Command(filepath.Join(bin, filepath.Base(words[0])), append(slices.Clip(args), "--help")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s: %v\n%s", path, line, err, out)
		}
	}
	return checked
}

var assignment = regexp.MustCompile(`^[A-Z_]+=`)

func TestBlocksMarkedRunPrintWhatIsShown(t *testing.T) {
	bin := build(t)
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
