// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"slices"
	"strings"
	"testing"
)

// Who alone may import what, as path prefixes below this module. Tests are bound by it too.
var reserved = []struct {
	module string
	users  []string
	why    string
}{
	{"github.com/nats-io/nats.go", []string{"internal/bus", "test/chaos"}, "so that how we use the bus is decided once; test/chaos restores streams as the nats command does"},
	{"github.com/nats-io/nats-server", []string{"internal/bus/embedded"}, "a server in a service's binary is 20 MB"},
	{"github.com/nats-io/jwt", []string{"internal/trust"}, "so that who may do what is decided in one table"},
	{"k8s.io/client-go", []string{"services/watcher/kube", "internal/lab/apiserver"}, "the watcher is the only part that talks to Kubernetes; the lab may play kubectl"},
	{"github.com/hashicorp/go-memdb", []string{"services/compiler/state"}, "the compiler's state is wrapped once, in typed tables"},
	{"github.com/vishvananda/netlink", []string{"services/programmer", "internal/lab", "internal/testkit", "bpf", "test/kernel"}, "only what works on a node's network knows netlink"},
	{"github.com/cilium/ebpf", []string{"bpf", "services/programmer/maps", "internal/testkit", "internal/kernelnode", "internal/lab/fabric", "test/kernel"}, "the kernel is reached through package bpf; the lab's fabric loses frames by a program of its own"},
}

func TestReservedModulesHaveOnlyTheirUsers(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.allImports() {
			for _, r := range reserved {
				if within(imported, r.module) && !slices.ContainsFunc(r.users, func(u string) bool { return within(p.path, u) }) {
					t.Errorf("%s imports %s, which is for %s: %s", p.path, imported, strings.Join(r.users, " and "), r.why)
				}
			}
		}
	}
}

// Programs whose binaries must not contain what stands beside them, however indirectly.
func TestNodesAndCompilerHaveNoKubernetesClient(t *testing.T) {
	never := []string{"k8s.io", "sigs.k8s.io/json", "github.com/nats-io/nats-server"}
	for _, program := range []string{"services/programmer", "services/compiler"} {
		for _, dependency := range dependencies(t, program) {
			for _, n := range never {
				if within(dependency, n) {
					t.Errorf("%s contains %s: it must know no Kubernetes, only the bus", program, dependency)
				}
			}
		}
	}
}

func TestCompilerNeedsNoKernel(t *testing.T) {
	for _, dependency := range dependencies(t, "services/compiler") {
		if within(dependency, "github.com/cilium/ebpf") || within(dependency, "github.com/vishvananda/netlink") {
			t.Errorf("services/compiler contains %s: it must run anywhere", dependency)
		}
	}
}

func TestOnlyTestsImportTestkit(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(p.imports, module+"/internal/testkit") {
			t.Errorf("%s imports internal/testkit outside of its tests", p.path)
		}
	}
}

// The example is an outsider: it shows what a subscriber may rely on.
func TestExampleUsesOnlySchemas(t *testing.T) {
	for _, file := range sources(t, "examples") {
		for _, imported := range file.imports() {
			if within(imported, module) && imported != module+"/schemas" && !within(imported, module+"/examples") && !strings.HasSuffix(file.path, "_test.go") {
				t.Errorf("%s imports %s: of this module an outsider has only schemas", file.path, imported)
			}
		}
	}
}

func within(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
