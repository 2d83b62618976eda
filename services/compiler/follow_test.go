// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"

	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/schemas"
)

// Promise P7: an old fact that is put back into STATE isn't believed, and an old STATE not before a watcher has announced
// a list that is newer.
// Fault 13: a bus that says again what was so.
func TestOldFactsAreRefused(t *testing.T) {
	numbered := func(number uint64) *schemas.Fact { return &schemas.Fact{Number: number} }
	complete := func(number uint64) *schemas.Fact {
		return &schemas.Fact{Number: number, State: &schemas.Fact_Complete{Complete: &schemas.Complete{}}}
	}
	r := &reading{session: &session{service: &service{seals: seals{trust: &keyfile.Trust{}}}}, before: 10}
	for i, test := range []struct {
		fact          *schemas.Fact
		putBack, aged bool
	}{
		{numbered(5), false, true},
		{complete(7), false, true},
		{numbered(6), true, true},
		{numbered(7), true, true},
		{numbered(0), true, true},
		{complete(10), false, true}, // what was read before may have gone on
		{numbered(12), false, true}, // others may be missing
		{complete(13), false, false},
		{complete(7), true, false},
	} {
		if err := r.order(test.fact); errors.Is(err, errPutBack) != test.putBack || r.old() != test.aged {
			t.Errorf("fact %d, of number %d: %v, STATE is old: %v; want put back %v, old %v",
				i, test.fact.GetNumber(), err, r.old(), test.putBack, test.aged)
		}
	}
	r = &reading{session: &session{service: &service{}}}
	for range 2 {
		if err := r.order(numbered(0)); err != nil || r.old() {
			t.Errorf("without trusted keys a fact isn't believed: %v", err)
		}
	}
}
