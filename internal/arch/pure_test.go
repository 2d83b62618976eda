// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// Packages that are pure: what they return depends on what they are given and on nothing else.
var pure = []string{
	"internal/abi", "internal/lead", "internal/maglev", "internal/model", "internal/portrange", "internal/refmodel", "internal/refmodel/policy", "internal/seal", "internal/steps", "internal/streams", "internal/walk", "internal/wire", "schemas",
	"services/compiler/compile", "services/compiler/core", "services/compiler/fleet", "services/compiler/ids", "services/compiler/policy", "services/compiler/state",
	"services/programmer/core", "services/programmer/plan", "services/programmer/resync",
	"services/watcher/convert", "services/watcher/core",
}

// Packages that aren't pure but that some pure ones may import, for their types alone.
var typesOnly = map[string]string{
	"services/programmer/maps": "services/programmer/plan", // maps.Write is what a plan is made of
}

// What would let the world in.
var impure = []string{
	"crypto/rand", "log", "log/slog", "math/rand", "net", "net/http", "os", "os/exec", "os/signal", "path/filepath",
	"runtime", "syscall", "testing", "golang.org/x/sys", "github.com/cilium/ebpf", "github.com/nats-io", "k8s.io/client-go",
}

// Modules that pure packages may use besides the standard library; convert alone knows Kubernetes' types.
var pureModules = []string{"google.golang.org/protobuf", "github.com/hashicorp/go-memdb", "k8s.io/api", "k8s.io/apimachinery"}

// Parts of package time that read a clock or wait for one.
var clock = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

func TestPurePackagesImportNothingImpure(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.path) {
			continue
		}
		for _, imported := range p.imports {
			if slices.ContainsFunc(impure, func(i string) bool { return imported == i || (strings.Contains(i, ".") && within(imported, i)) }) {
				t.Errorf("%s is pure, but imports %s", p.path, imported)
			}
			if own, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(pure, own) && typesOnly[own] != p.path {
				t.Errorf("%s is pure, but imports %s, which isn't", p.path, own)
			}
			if foreign(imported) && !slices.ContainsFunc(pureModules, func(m string) bool { return within(imported, m) }) {
				t.Errorf("%s is pure, but imports %s, which nobody has vouched for", p.path, imported)
			}
		}
	}
}

func TestPurePackagesReadNoClockAndStartNothing(t *testing.T) {
	for _, dir := range pure {
		for _, file := range sources(t, dir) {
			if file.isTest() || file.generated() || file.dir() != dir {
				continue
			}
			for node := range ast.Preorder(file.syntax) {
				switch n := node.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
						t.Errorf("%s: time.%s in a pure package: take the time as an input", file.at(n), n.Sel.Name)
					}
				case *ast.GoStmt:
					t.Errorf("%s: a goroutine in a pure package", file.at(n))
				case *ast.ChanType, *ast.SelectStmt:
					t.Errorf("%s: a channel in a pure package", file.at(n))
				}
			}
		}
	}
}

// A package-level variable that is written after start is history that a pure function can see.
func TestPurePackagesHaveNoMutableState(t *testing.T) {
	for _, dir := range pure {
		for _, file := range sources(t, dir) {
			if file.isTest() || file.generated() || file.dir() != dir {
				continue
			}
			for _, decl := range file.syntax.Decls {
				vars, ok := decl.(*ast.GenDecl)
				if !ok || vars.Tok != token.VAR {
					continue
				}
				for _, spec := range vars.Specs {
					value := spec.(*ast.ValueSpec)
					if len(value.Values) == 0 && value.Names[0].Name != "_" {
						t.Errorf("%s: variable %s of a pure package has no value from the start, so something must write it later", file.at(value), value.Names[0].Name)
					}
				}
			}
		}
	}
}

// foreign says whether an import path is neither the standard library's nor ours.
func foreign(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".") && !within(path, module)
}
