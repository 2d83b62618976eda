// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestProgramsLoadWithoutPins(t *testing.T) {
	testkit.NeedKernel(t)
	d, err := Load(Options{})
	if err != nil {
		t.Fatalf("Load: %+v", err)
	}
	d.Close()
}

// TestProgramsLoadWhileTheyAdopt: they are deeper then than ever, and what verifiers take of the stack depends on the kernel.
//
// Trap 38: programs also load while maps are exchanged, whatever they adopt from.
func TestProgramsLoadWhileTheyAdopt(t *testing.T) {
	testkit.NeedKernel(t)
	d, err := Load(Options{CheckSources: true, Node: 1, XDP: XDPGeneric})
	if err != nil {
		t.Fatalf("Load: %+v", err)
	}
	defer d.Close()
	for _, how := range []uint32{adoptSame, adoptV1} {
		if err := d.loadPrograms(adoption{how: how}); err != nil {
			t.Errorf("adopting %d: %v", how, err)
		}
		if d.wire == nil {
			t.Errorf("adopting %d: without the program of frames", how)
		}
	}
}
