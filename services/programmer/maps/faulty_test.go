// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
)

func TestFaultyFailsAtTheOperationAskedForAndKeepsWhatCameBefore(t *testing.T) {
	memory := NewMemory([abi.MapCount]uint32{})
	f := &Faulty{Maps: memory, FailAt: 3}
	err := f.Write([]Write{put(abi.Sets, 1, 1), put(abi.Sets, 2, 2), put(abi.Sets, 3, 3), put(abi.Sets, 4, 4)})
	want := "writing an entry of map sets_v2: operation 3: injected failure"
	if !errors.Is(err, ErrInjected) || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1, 2: 2}, contents(t, memory, abi.Sets)); diff != "" {
		t.Error(diff)
	}
	write(t, f, put(abi.Sets, 3, 3))
	if f.Operations() != 4 {
		t.Errorf("counted %d operations, want 4", f.Operations())
	}
}

func TestFaultyFailsWithItsProbability(t *testing.T) {
	f := &Faulty{Maps: NewMemory([abi.MapCount]uint32{}), Probability: 0.25, Random: rand.New(rand.NewPCG(1, 2))}
	failed := 0
	for range 1000 {
		if f.Grace() != nil {
			failed++
		}
	}
	if failed < 200 || failed > 300 {
		t.Errorf("%d of 1000 operations failed, want about 250", failed)
	}
}
