// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"strings"
	"testing"
)

const (
	longestFile     = 600 // lines
	longestFunction = 80  // lines
)

// Functions and files that are long because they are one straight story, each with the lines it has.
var long = map[string]int{}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, file := range sources(t, "") {
		if file.generated() {
			continue
		}
		if n := len(lines(t, file.path)); n > max(longestFile, long[file.path]) {
			t.Errorf("%s has %d lines: is it one idea?", file.path, n)
		}
		for _, decl := range file.syntax.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := straightLines(file, function)
			if n > max(longestFunction, long[file.dir()+"."+function.Name.Name]) {
				t.Errorf("%s: %s has %d lines: is it one straight story? Then say so in the table of this test", file.at(function), function.Name.Name, n)
			}
		}
	}
}

// straightLines counts a function's lines without the rows of tables and the subtests in it, which are read one by one.
func straightLines(file source, function *ast.FuncDecl) int {
	span := func(n ast.Node) int { return file.line(n.End()) - file.line(n.Pos()) }
	count := span(function) + 1
	ast.Inspect(function, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			count -= span(n)
			return false
		case *ast.CallExpr:
			if run, ok := n.Fun.(*ast.SelectorExpr); ok && run.Sel.Name == "Run" {
				count -= span(n)
				return false
			}
		}
		return true
	})
	return count
}

func TestEachPackageSaysOnceWhatItIsFor(t *testing.T) {
	comments := map[string][]source{}
	for _, file := range sources(t, "") {
		if file.isTest() || file.generated() {
			continue
		}
		found := comments[file.dir()]
		if file.syntax.Doc != nil {
			found = append(found, file)
		}
		comments[file.dir()] = found
	}
	for dir, files := range comments {
		switch len(files) {
		case 1:
			checkComment(t, files[0])
		case 0:
			t.Errorf("%s has no package comment", dir)
		default:
			t.Errorf("%s has %d package comments, in %s and %s among others", dir, len(files), files[0].path, files[1].path)
		}
	}
}

func checkComment(t *testing.T, file source) {
	t.Helper()
	text, name := file.syntax.Doc.Text(), file.syntax.Name.Name
	if name != "main" && !strings.HasPrefix(text, "Package "+name+" ") {
		t.Errorf("%s: the package comment doesn't begin with \"Package %s\"", file.path, name)
	}
	if len(text) < 60 {
		t.Errorf("%s: the package comment says too little: %q", file.path, text)
	}
}

// A test that sleeps is slow on one machine and wrong on another; one that skips without a reason hides.
func TestTestsNeitherSleepNorHide(t *testing.T) {
	for _, file := range sources(t, "") {
		if !file.isTest() {
			continue
		}
		for node := range ast.Preorder(file.syntax) {
			call, ok := node.(*ast.CallExpr)
			if !ok {
				continue
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				continue
			}
			x, _ := selector.X.(*ast.Ident)
			if x != nil && x.Name == "time" && selector.Sel.Name == "Sleep" && !strings.Contains(strings.Join(file.imports(), " "), "testing/synctest") {
				t.Errorf("%s: wait for a value, or use testing/synctest", file.at(call))
			}
			if selector.Sel.Name == "Skip" && len(call.Args) == 0 || selector.Sel.Name == "SkipNow" {
				t.Errorf("%s: say why it is skipped", file.at(call))
			}
		}
	}
}
