// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net/netip"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// flow is what a node remembers of a connection: where it goes, and whose it is.
type flow struct {
	backend model.BackendID
	set     model.SetID
	addr    netip.Addr
	port    uint16
}

// flows are a connection to each backend.
func (w *world) flows() (list []flow) {
	for id, b := range w.core.rows(model.ClusterLayer).Backends {
		list = append(list, flow{id, b.Set, b.Addr, b.Port})
	}
	return list
}

// stay counts the connections whose backends still serve them, as the programs look (backend_serves in bpf/include).
func (w *world) stay(flows []flow) (n int) {
	for _, f := range flows {
		if b, held := w.core.rows(model.ClusterLayer).Backends[f.backend]; held && b.Set == f.set && b.Addr == f.addr && b.Port == f.port {
			n++
		}
	}
	return n
}

// All compilers are dead and DELTA is lost: nobody knows the numbers any more. Whoever leads then numbers in the order of
// names. What was numbered in that order keeps its connections; of the rest those end whose ids mean something else. None is
// led elsewhere: a flow has its backend's address, and is believed only with that.
//
// Fault 5: DELTA's volume is lost while no compiler is left.
func TestWhoNumbersAnewEndsOnlyConnectionsWhoseIdsTurn(t *testing.T) {
	for name, test := range map[string]struct {
		late      bool // the first by name came last
		most, all int  // connections that may end
	}{
		"in the order of names": {false, 0, 20},
		"in another order":      {true, 20, 20},
	} {
		t.Run(name, func(t *testing.T) {
			facts := shopFacts(4, 5)
			w := newWorld(t, Options{})
			w.ready()
			if test.late {
				w.facts(facts[4:]...)
				w.pass(time.Second)
				w.facts(facts[:4]...)
			} else {
				w.facts(facts...)
			}
			w.pass(time.Second)
			flows := w.flows()
			if len(flows) != test.all {
				t.Fatalf("%d connections, want %d", len(flows), test.all)
			}
			anew := newWorld(t, Options{})
			anew.core.RaiseTo(w.core.Revision())
			anew.facts(facts...)
			anew.ready()
			anew.pass(time.Second)
			anew.checkConverged()
			ended := len(flows) - anew.stay(flows)
			t.Logf("%d of %d connections end", ended, len(flows))
			if ended > test.most || test.late && ended == 0 {
				t.Errorf("%d of %d connections end, want up to %d", ended, len(flows), test.most)
			}
		})
	}
}
