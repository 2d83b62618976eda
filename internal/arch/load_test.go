// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/deltaplane/deltaplane"
	root   = "../.."
)

// pkg is one package of the root module; path is relative to it.
type pkg struct {
	path                 string
	imports, testImports []string
}

func (p pkg) allImports() []string { return slices.Concat(p.imports, p.testImports) }

var listed = sync.OnceValues(func() ([]pkg, error) {
	out, err := goList("-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	if err != nil {
		return nil, err
	}
	var all []pkg
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		all = append(all, pkg{path, p.Imports, slices.Concat(p.TestImports, p.XTestImports)})
	}
})

func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := listed()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// dependencies lists everything that is linked into a program.
func dependencies(t *testing.T, program string) []string {
	t.Helper()
	out, err := goList("-deps", "./"+program)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

func goList(args ...string) (string, error) {
	command := exec.Command("go", append([]string{"list"}, args...)...)
	command.Dir = root
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// source is one Go file; path is relative to the repository's top.
type source struct {
	path   string
	fset   *token.FileSet
	syntax *ast.File
}

func (s source) isTest() bool         { return strings.HasSuffix(s.path, "_test.go") }
func (s source) generated() bool      { return ast.IsGenerated(s.syntax) }
func (s source) dir() string          { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s source) line(p token.Pos) int { return s.fset.Position(p).Line }

func (s source) at(n ast.Node) string { return s.path + ":" + strconv.Itoa(s.line(n.Pos())) }

func (s source) imports() []string {
	var all []string
	for _, i := range s.syntax.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		all = append(all, path)
	}
	return all
}

// sources parses all Go files below dir, of all modules in the repository.
func sources(t *testing.T, dir string) []source {
	t.Helper()
	var all []source
	for _, path := range files(t, dir, ".go") {
		fset := token.NewFileSet()
		syntax, err := parser.ParseFile(fset, filepath.Join(root, path), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{path, fset, syntax})
	}
	return all
}

// files lists the repository's files below dir whose names end in one of the endings; none means all.
func files(t *testing.T, dir string, endings ...string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", ".cache", "bin", "node_modules", "artifacts"}, entry.Name()) {
			return filepath.SkipDir
		}
		wanted := len(endings) == 0 || slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(path, e) })
		if entry.Type().IsRegular() && wanted {
			relative, err := filepath.Rel(root, path)
			all = append(all, filepath.ToSlash(relative))
			return err
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}
