// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shown is a test that a document names, with the folder that it links to.
var shown = regexp.MustCompile("\\[`(Test\\w+)`\\]\\(([^)]+)\\)")

// Each situation of docs/operations/bad-input.md names a test that shows it, in the folder that it links to.
func TestEachBadInputHasItsTest(t *testing.T) {
	const page = "docs/operations/bad-input.md"
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| situation ") {
			continue
		}
		rows++
		tests := shown.FindAllStringSubmatch(line, -1)
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

// What docs/operations/bus.md promises is shown by the tests that it names, too.
func TestWhatIsSaidOfTheBusHasItsTests(t *testing.T) {
	const page = "docs/operations/bus.md"
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	named := shown.FindAllStringSubmatch(string(text), -1)
	for _, m := range named {
		if !hasTest(t, filepath.Join(filepath.Dir(filepath.Join(root, page)), m[2]), m[1]) {
			t.Errorf("%s: %s has no %s", page, m[2], m[1])
		}
	}
	if len(named) < 5 {
		t.Errorf("%s names %d tests", page, len(named))
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
