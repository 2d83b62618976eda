// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each situation of docs/operations/bad-input.md names a test that shows it, in the folder that it links to.
func TestEachBadInputHasItsTest(t *testing.T) {
	const page = "docs/operations/bad-input.md"
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("\\[`(Test\\w+)`\\]\\(([^)]+)\\)")
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| situation ") {
			continue
		}
		rows++
		tests := named.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("%s: no test shows this: %s", page, line)
		}
		for _, m := range tests {
			folder := filepath.Join(filepath.Dir(filepath.Join(root, page)), m[2])
			if !hasTest(t, folder, m[1]) {
				t.Errorf("%s: %s has no %s", page, m[2], m[1])
			}
		}
	}
	if rows < 30 {
		t.Errorf("%s has %d situations: is its table still read?", page, rows)
	}
}

func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "func "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
