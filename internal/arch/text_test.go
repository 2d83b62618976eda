// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryFileNamesItsLicence(t *testing.T) {
	all := append(files(t, "", ".go", ".c", ".h", ".proto", ".sh"), "Makefile", ".ci/run")
	for _, path := range all {
		text := read(t, path)
		if bytes.HasPrefix(text, []byte("// Code generated")) {
			continue
		}
		head := text[:min(len(text), 200)]
		if !bytes.Contains(head, []byte("SPDX-License-Identifier: ")) {
			t.Errorf("%s: no SPDX-License-Identifier in its first lines", path)
		}
	}
}

func TestLeftOversNameAnIssue(t *testing.T) {
	marker := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|HA` + `CK|XX` + `X)\b(\(#\d+\))?`)
	for _, path := range files(t, "", ".go", ".c", ".h", ".proto", ".sh", ".yaml", "Makefile") {
		for i, line := range lines(t, path) {
			for _, m := range marker.FindAllStringSubmatch(line, -1) {
				if m[2] == "" {
					t.Errorf("%s:%d: %s without an issue: write %s(#number), or do it", path, i+1, m[1], m[1])
				}
			}
		}
	}
}

// A path of one machine works on no other.
func TestNoPathsOfOneMachine(t *testing.T) {
	machine := regexp.MustCompile(`(^|[^A-Za-z0-9_./-])/(ro` + `ot|ho` + `me|wo` + `rk)/[a-z]`)
	for _, path := range files(t, "") {
		text := read(t, path)
		if bytes.IndexByte(text[:min(len(text), 8000)], 0) >= 0 || strings.HasSuffix(path, ".sum") {
			continue
		}
		if m := machine.Find(text); m != nil {
			t.Errorf("%s names a path of one machine: %q", path, m)
		}
	}
}

func TestShellScriptsOnlyStartThings(t *testing.T) {
	for _, path := range append(files(t, "", ".sh"), ".ci/run") {
		all := lines(t, path)
		if len(all) > 30 {
			t.Errorf("%s has %d lines: more than 30 is a Go program", path, len(all))
		}
		if !slices.Contains(all, "set -euo pipefail") {
			t.Errorf("%s doesn't say set -euo pipefail", path)
		}
	}
}

func TestNoLargeFiles(t *testing.T) {
	for _, path := range files(t, "") {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1<<20 && !strings.HasSuffix(path, ".test") {
			t.Errorf("%s has %d bytes: more than 1 MiB doesn't belong in a repository", path, info.Size())
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(string(read(t, path)), "\n"), "\n")
}
