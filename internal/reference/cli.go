// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// commandLines asks the binaries themselves, so that the page says what a user sees.
func commandLines(top string) (string, error) {
	bin, err := os.MkdirTemp("", "reference-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin, "./cmd/deltaplane", "./services/watcher", "./services/compiler", "./services/programmer")
	build.Dir = top
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	p := newPage("Command lines", "What `--help` says, of every command. The services take each flag from the environment and from a file too.")
	for _, program := range []string{"deltaplane", "watcher", "compiler", "programmer"} {
		if err := help(p, bin, []string{program}); err != nil {
			return "", err
		}
	}
	return p.String(), nil
}

// help writes one command's help, then that of the commands below it.
func help(p *page, bin string, command []string) error {
	out, err := run(bin, append(command, "--help"))
	if err != nil {
		return err
	}
	p.section("`" + strings.Join(command, " ") + "`")
	p.text("```", strings.TrimSpace(out), "```")
	below, err := run(bin, append(command, "__complete", ""))
	if len(command) > 1 {
		below, err = run(bin, append(append([]string{command[0], "__complete"}, command[1:]...), ""))
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(below) {
		name, _, isCommand := strings.Cut(line, "\t")
		isCommand = isCommand && strings.Contains(out, "\n  "+name+" ") // not a flag or a value
		if isCommand && name != "help" && name != "completion" {
			if err := help(p, bin, append(slices.Clip(command), name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func run(bin string, command []string) (string, error) {
	cmd := exec.Command(filepath.Join(bin, command[0]), command[1:]...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "COLUMNS=100")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return string(out), nil
}
