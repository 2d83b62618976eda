// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"

	"github.com/deltaplane/deltaplane/schemas"
)

// built calls each function that makes a subject with names that tell what goes where.
var built = map[string]func() string{
	"StateSubject":      func() string { return schemas.StateSubject("KIND", "NAMESPACE", "NAME") },
	"DeltaSubject":      func() string { return schemas.DeltaSubject("LAYER") },
	"AppliedSubject":    func() string { return schemas.AppliedSubject("NODE") },
	"SyncSubject":       func() string { return schemas.SyncSubject("NODE") },
	"ActualSubject":     func() string { return schemas.ActualSubject("NODE") },
	"FlowsSubject":      func() string { return schemas.FlowsSubject("NODE") },
	"PulseSubject":      func() string { return schemas.PulseSubject("SERVICE") },
	"CredentialSubject": func() string { return schemas.CredentialSubject("NODE") },
	"EventSubject":      func() string { return schemas.EventSubject("SERVICE", "NODE") },
	"ApplySubject":      func() string { return schemas.ApplySubject("LAYER") },
}

func subjects(top string) (string, error) {
	file, err := parse(top, "schemas/subjects.go")
	if err != nil {
		return "", err
	}
	said := comments(file)
	p := newPage("Subjects and streams", "What travels on the bus, and where. The messages are described in `schemas/deltaplane/v1`; "+
		"subjects are built by the functions of package `schemas`, which encode names that are no plain token.")
	p.section("Subjects")
	var rows [][]string
	for _, decl := range file.Decls {
		for name, subject := range named(decl) {
			if subject == "" {
				example, known := built[name]
				if !known {
					return "", fmt.Errorf("function %s of schemas/subjects.go has no example in internal/reference", name)
				}
				subject = example()
			}
			rows = append(rows, []string{"`" + subject + "`", "`" + name + "`", about(name, said[name])})
		}
	}
	p.table([]string{"subject", "in package `schemas`", "what it carries"}, rows)
	p.section("Streams")
	p.table([]string{"stream", "subjects", "kept", "at most", "what it holds"}, streamRows())
	return p.String(), nil
}

// named yields a declaration's exported subjects: the value of a constant, or "" for a function that builds one.
func named(decl ast.Decl) func(func(name, subject string) bool) {
	return func(yield func(string, string) bool) {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if strings.HasSuffix(d.Name.Name, "Subject") && len(d.Type.Results.List) == 1 {
				yield(d.Name.Name, "")
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				value, ok := spec.(*ast.ValueSpec)
				if d.Tok == token.CONST && ok && value.Names[0].IsExported() && !yield(value.Names[0].Name, prefixed(value.Values[0])) {
					return
				}
			}
		}
	}
}

// prefixed evaluates `prefix + "rest"`.
func prefixed(e ast.Expr) string {
	sum, ok := e.(*ast.BinaryExpr)
	if !ok {
		return ""
	}
	rest, _ := strconv.Unquote(sum.Y.(*ast.BasicLit).Value)
	return "deltaplane.v1." + rest
}

func streamRows() [][]string {
	var rows [][]string
	for _, s := range schemas.Streams {
		kept := "for ever"
		if s.MaxAge > 0 {
			kept = fmt.Sprintf("%g hours", s.MaxAge.Hours())
		}
		if s.LastPerSubject {
			kept = "the last message of each subject"
		}
		if s.MaxPerSubject > 0 {
			kept += fmt.Sprintf(", at most %d of a subject", s.MaxPerSubject)
		}
		rows = append(rows, []string{s.Name, "`" + strings.Join(s.Subjects, "`, `") + "`", kept, fmt.Sprintf("%g GiB", float64(s.MaxBytes)/(1<<30)), s.Description})
	}
	return rows
}
