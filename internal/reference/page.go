// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// page is a Markdown page in the making.
type page struct{ strings.Builder }

func newPage(title, about string) *page {
	p := &page{}
	fmt.Fprintf(p, "<!-- Written by internal/reference from the code: change it there and run make generate. -->\n\n# %s\n\n%s\n", title, about)
	return p
}

func (p *page) section(title string) { fmt.Fprintf(p, "\n## %s\n", title) }

func (p *page) text(lines ...string) { fmt.Fprintf(p, "\n%s\n", strings.Join(lines, "\n")) }

// table writes a table; head has the column titles.
func (p *page) table(head []string, rows [][]string) {
	fmt.Fprintf(p, "\n| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, row := range rows {
		for i := range row {
			row[i] = strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(row[i]), "\n", " "), "|", `\|`)
		}
		fmt.Fprintf(p, "| %s |\n", strings.Join(row, " | "))
	}
}

// parse reads one Go file with its comments.
func parse(top, path string) (*ast.File, error) {
	return parser.ParseFile(token.NewFileSet(), filepath.Join(top, path), nil, parser.ParseComments)
}

// comments returns what stands above each constant, type and function of a file, by name.
func comments(file *ast.File) map[string]string {
	all := map[string]string{}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			all[d.Name.Name] = d.Doc.Text()
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.ValueSpec:
					all[s.Names[0].Name] = either(s.Doc, s.Comment, d.Doc)
				case *ast.TypeSpec:
					all[s.Name.Name] = either(s.Doc, d.Doc, s.Comment)
				}
			}
		}
	}
	return all
}

func either(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if text := g.Text(); text != "" {
			return text
		}
	}
	return ""
}

// about turns a Go comment into a sentence for readers who don't see the name it starts with.
func about(name, comment string) string {
	text := strings.Join(strings.Fields(comment), " ")
	for _, start := range []string{name + " is ", name + " "} {
		if rest, ok := strings.CutPrefix(text, start); ok {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return text
}
