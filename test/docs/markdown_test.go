// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// document is one Markdown file; path is relative to the repository's top.
type document struct {
	path string
	text string
}

// documents reads all that people wrote; generated pages are tested where they are generated.
func documents(t *testing.T) []document {
	t.Helper()
	var all []document
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == ".cache" || entry.Name() == "reference" || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".md") {
			return nil
		}
		text, err := os.ReadFile(path)
		relative, _ := filepath.Rel(root, path)
		all = append(all, document{relative, string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// block is one fenced block: what its fence says, and its lines.
type block struct {
	info  string
	lines []string
}

func (d document) blocks() []block {
	var all []block
	inside := false
	for line := range strings.Lines(d.text) {
		line = strings.TrimRight(line, "\n")
		if info, fence := strings.CutPrefix(line, "```"); fence {
			if inside = !inside; inside {
				all = append(all, block{info: info})
			}
			continue
		}
		if inside {
			last := &all[len(all)-1]
			last.lines = append(last.lines, line)
		}
	}
	return all
}

// command is one command of a console block and the output shown below it.
type command struct {
	line   string
	output string
}

func (b block) commands() []command {
	var all []command
	for _, line := range b.lines {
		if rest, prompt := strings.CutPrefix(line, "$ "); prompt {
			all = append(all, command{line: rest})
		} else if len(all) > 0 {
			all[len(all)-1].output += line + "\n"
		}
	}
	return all
}
