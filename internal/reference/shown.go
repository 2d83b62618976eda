// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// shown is one test that says, in the comment above it, which numbered behaviour it shows:
//
//	Row 7: a NodePort answers on each address of the node.
//	Policy row 3: replies to what was allowed pass.
//	Promise P5: a node that is behind is named with why.
//	Fault 8: a slow node is named, and others don't notice.
//	Trap 20: ports of masqueraded flows are none that the node's own sockets use.
//
// The sentence ends at an empty line or at the next of these.
type shown struct {
	says string
	test string // the function's name
	file string // from the repository's top
}

var marks = regexp.MustCompile(`^(Row|Policy row|Trap|Promise|Fault) P?(\d+): (.+)$`)

// shownBy reads the tests of the whole repository and returns what they show, by "Row 7", "Policy row 3" or "Trap 20".
func shownBy(top string) (map[string][]shown, error) {
	all := map[string][]shown{}
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != top {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		from, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		return marked(file, filepath.ToSlash(from), all)
	})
	for _, list := range all {
		slices.SortFunc(list, func(a, b shown) int { return strings.Compare(a.file+a.test+a.says, b.file+b.test+b.says) })
	}
	return all, err
}

func marked(file *ast.File, path string, all map[string][]shown) error {
	for _, decl := range file.Decls {
		function, ok := decl.(*ast.FuncDecl)
		if !ok || function.Doc == nil {
			continue
		}
		for key, says := range sentences(function.Doc.Text()) {
			name := function.Name.Name
			if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") {
				return fmt.Errorf("%s: %q stands above %s, which is no test", path, key, name)
			}
			all[key] = append(all[key], shown{says: says, test: name, file: path})
		}
	}
	return nil
}

// sentences returns what a comment says of each number, such as "Row 7".
func sentences(comment string) map[string]string {
	all := map[string]string{}
	key := ""
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(line)
		if m := marks.FindStringSubmatch(line); m != nil {
			key, line = m[1]+" "+m[2], m[3]
		}
		if line == "" {
			key = ""
		}
		if key != "" {
			all[key] = strings.TrimSpace(all[key] + " " + line)
		}
	}
	return all
}

// checkMarks refuses a mark whose number nothing has.
func checkMarks(all map[string][]shown, word string, known func(number int) bool) error {
	for key, list := range all {
		text, ours := strings.CutPrefix(key, word+" ")
		if number, _ := strconv.Atoi(text); ours && !known(number) {
			return fmt.Errorf("%s: %s says %q, and there is no such number", list[0].file, list[0].test, key)
		}
	}
	return nil
}

func (s shown) link() string { return fmt.Sprintf("[`%s`](../../%s)", s.test, s.file) }
