// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/deltaplane/deltaplane/bpf/reasongen/reasons"
	"github.com/deltaplane/deltaplane/internal/abi"
)

func TestReasonsHeaderIsFresh(t *testing.T) {
	header, err := os.ReadFile("include/reasons.h")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(header, reasons.Header()) {
		t.Error("include/reasons.h is stale: run go generate ./bpf and commit")
	}
}

// TestGoTypesAreLaidOutAsTheObjects compares internal/abi with the BTF of what was compiled: each field at the
// same place with the same size. Names differ only in case and underscores; a Go field may be blank.
func TestGoTypesAreLaidOutAsTheObjects(t *testing.T) {
	specs := objects(t)
	for name, goType := range map[string]any{
		"frontend_key": abi.FrontendKey{}, "frontend": abi.Frontend{}, "backend_set": abi.BackendSet{},
		"slot_key": abi.SlotKey{}, "backend": abi.Backend{}, "node": abi.Node{}, "endpoint": abi.Endpoint{}, "position": abi.Position{},
		"drop_event": abi.DropEvent{}, "count_key": abi.CountKey{}, "tuple": abi.Tuple{}, "flow": abi.Flow{}, "connection_key": abi.ConnectionKey{},
		"connection": abi.Connection{}, "verdict_key": abi.VerdictKey{}, "verdict": abi.Verdict{}, "identity": abi.Identity{},
		"port_verdict_key": abi.PortVerdictKey{}, "port_verdict": abi.PortVerdict{}, "rule_set": abi.RuleSet{}, "rule": abi.Rule{}, "choice": abi.Choice{}, "peer": abi.Peer{},
	} {
		c := findStruct(t, specs, name)
		g := reflect.TypeOf(goType)
		if int(c.Size) != len(abi.Encode(goType)) {
			t.Errorf("%s: %d bytes in C, %d in Go", name, c.Size, len(abi.Encode(goType)))
		}
		offset := uint32(0)
		fields := map[string][2]uint32{} // name → offset, size
		for f := range g.Fields() {
			fields[strings.ToLower(f.Name)] = [2]uint32{offset, uint32(f.Type.Size())}
			offset += uint32(f.Type.Size())
		}
		for _, m := range c.Members {
			if strings.HasPrefix(m.Name, "pad") {
				continue
			}
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := fields[strings.ReplaceAll(m.Name, "_", "")]
			if want := [2]uint32{m.Offset.Bytes(), uint32(size)}; !ok || got != want {
				t.Errorf("%s.%s: offset and size %v in Go, %v in C", name, m.Name, got, want)
			}
		}
	}
}

func TestMapsAreLaidOutAsTheirUsersThink(t *testing.T) {
	files, err := readFiles(nil)
	if err != nil {
		t.Fatal(err)
	}
	shared := files.shared()
	for m := range abi.MapCount {
		layout := abi.Layouts[m]
		got, ok := shared[layout.Name]
		if !ok {
			t.Fatalf("no map %s", layout.Name)
		}
		if int(got.KeySize) != layout.KeySize || int(got.ValueSize) != layout.ValueSize {
			t.Errorf("%s: %d → %d bytes in C, %d → %d in Go", m, got.KeySize, got.ValueSize, layout.KeySize, layout.ValueSize)
		}
		if DefaultCapacities[m] == 0 {
			t.Errorf("%s has no default capacity", m)
		}
	}
}

func objects(t *testing.T) []*ebpf.CollectionSpec {
	t.Helper()
	files, err := readFiles(nil)
	if err != nil {
		t.Fatal(err)
	}
	return files.all()
}

// findStruct returns the type from whichever object has it.
func findStruct(t *testing.T, specs []*ebpf.CollectionSpec, name string) *btf.Struct {
	t.Helper()
	for _, spec := range specs {
		var s *btf.Struct
		if err := spec.Types.TypeByName(name, &s); err == nil {
			return s
		}
	}
	t.Fatalf("no object has BTF of struct %s", name)
	return nil
}
