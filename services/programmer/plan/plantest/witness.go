// SPDX-License-Identifier: Apache-2.0

// Package plantest watches maps being written, as every packet that could be on its way would see them. Only tests
// import it.
package plantest

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	programmer "github.com/deltaplane/deltaplane/services/programmer/maps"
)

// Outcome is where a packet to a frontend goes: a backend's address, refusal, or no frontend at all. Broken is a
// path that ends at a missing row.
type Outcome string

// The outcomes that are no address.
const (
	NoFrontend Outcome = "no frontend"
	Refused    Outcome = "refused"
)

// Outcomes returns where packets to each frontend of rows may go.
func Outcomes(layers ...*model.Tables) map[model.FrontendKey]map[Outcome]bool {
	all := map[model.FrontendKey]map[Outcome]bool{}
	backends := map[model.BackendID]model.Backend{}
	for _, rows := range layers {
		maps.Copy(backends, rows.Backends)
	}
	for _, rows := range layers {
		for key, f := range rows.Frontends {
			all[key] = map[Outcome]bool{}
			for _, of := range layers {
				for m := range of.Members {
					if m.Set == f.Set {
						all[key][to(backends[m.Backend].Addr, backends[m.Backend].Port)] = true
					}
				}
			}
			if len(all[key]) == 0 {
				all[key][Refused] = true
			}
		}
	}
	return all
}

// leaving returns the rows after a change, but with the frontends as they pointed before, where their sets mean the
// same before and after.
func leaving(before, after []*model.Tables) []*model.Tables {
	old, hybrid := model.NewTables(), model.NewTables()
	for _, t := range before {
		maps.Copy(old.Frontends, t.Frontends)
		maps.Copy(old.Sets, t.Sets)
	}
	for _, t := range after {
		maps.Copy(hybrid.Backends, t.Backends)
		maps.Copy(hybrid.Members, t.Members)
		maps.Copy(hybrid.Sets, t.Sets)
	}
	for key, f := range old.Frontends {
		if was, held := old.Sets[f.Set]; held && hybrid.Sets[f.Set] == was {
			hybrid.Frontends[key] = f
		}
	}
	return []*model.Tables{hybrid}
}

func to(addr netip.Addr, port uint16) Outcome {
	return Outcome(netip.AddrPortFrom(addr, port).String())
}

// Witness wraps maps in memory and follows every reader: at each point of time a reader of every frontend starts,
// and each that runs either goes on to its next lookup or waits. A reader that is still on its way when a grace
// period ends can't exist. Whatever a reader finds must be allowed by the rows before or after the change in
// progress.
type Witness struct {
	*programmer.Memory
	// Problems are the broken paths that were seen, each once.
	Problems map[string]bool

	allowed map[model.FrontendKey]map[Outcome]bool
	before  map[model.FrontendKey]map[Outcome]bool
	now     map[model.FrontendKey]map[Outcome]bool
	rows    []*model.Tables
	earlier [][]*model.Tables // the rows before each change since the last grace period
	running map[reader]bool
	time    int
}

// reader is a packet's program between two lookups.
type reader struct {
	frontend model.FrontendKey
	at       int // 1: knows the set; 2: knows the slot; 3: knows the backend
	set      uint32
	index    uint32
	backend  uint32
}

// NewWitness watches memory, which holds rows.
func NewWitness(memory *programmer.Memory, rows ...*model.Tables) *Witness {
	w := &Witness{Memory: memory, Problems: map[string]bool{}, running: map[reader]bool{}, now: Outcomes(rows...), rows: rows}
	w.before = w.now
	w.earlier = [][]*model.Tables{rows}
	w.forget()
	w.step()
	return w
}

// Expect says that a change towards rows begins. Readers from before may still be on their way.
func (w *Witness) Expect(rows ...*model.Tables) {
	w.before, w.now = w.now, Outcomes(rows...)
	w.earlier, w.rows = append(w.earlier, w.rows), rows
	w.allowChange()
}

// forget allows only what the change in progress allows: no reader from before it runs any more.
func (w *Witness) forget() {
	w.allowed = map[model.FrontendKey]map[Outcome]bool{}
	w.earlier = w.earlier[len(w.earlier)-1:]
	w.allowChange()
}

func (w *Witness) allowChange() {
	w.allow(w.before)
	w.allow(w.now)
	for _, rows := range w.earlier {
		w.allow(Outcomes(leaving(rows, w.rows)...))
	}
	w.allowMissing(w.before, w.now)
	w.allowMissing(w.now, w.before)
}

func (w *Witness) allow(outcomes map[model.FrontendKey]map[Outcome]bool) {
	for key, set := range outcomes {
		if w.allowed[key] == nil {
			w.allowed[key] = map[Outcome]bool{}
		}
		maps.Copy(w.allowed[key], set)
	}
}

func (w *Witness) allowMissing(in, lacking map[model.FrontendKey]map[Outcome]bool) {
	for key := range in {
		if lacking[key] == nil {
			w.allowed[key][NoFrontend] = true
		}
	}
}

// Write implements Maps: readers run between any two entries.
func (w *Witness) Write(writes []programmer.Write) error {
	for i := range writes {
		if err := w.Memory.Write(writes[i : i+1]); err != nil {
			return err
		}
		w.time++
		w.step()
	}
	return nil
}

// Grace implements Maps: every reader has ended.
func (w *Witness) Grace() error {
	clear(w.running)
	w.forget()
	w.step()
	return nil
}

// step starts a reader of each frontend and lets all readers go on as far as they like.
func (w *Witness) step() {
	for key := range w.allowed {
		w.start(key)
	}
	todo := w.running
	for len(todo) > 0 {
		next := map[reader]bool{}
		for r := range todo {
			for _, n := range w.next(r) {
				if !w.running[n] {
					w.running[n], next[n] = true, true
				}
			}
		}
		todo = next
	}
}

func (w *Witness) start(key model.FrontendKey) {
	value, found := w.Lookup(abi.Frontends, abi.Encode(abi.KeyOfFrontend(key)))
	if !found {
		w.end(key, NoFrontend)
		return
	}
	var f abi.Frontend
	must(abi.Decode(value, &f))
	w.running[reader{frontend: key, at: 1, set: f.Set}] = true
}

func (w *Witness) next(r reader) []reader {
	switch r.at {
	case 1:
		value, found := w.Lookup(abi.Sets, abi.Encode(r.set))
		if !found {
			w.broken(r, "set %d is missing", r.set)
			return nil
		}
		var s abi.BackendSet
		must(abi.Decode(value, &s))
		if s.Count == 0 {
			w.end(r.frontend, Refused)
		}
		readers := make([]reader, s.Count)
		for i := range readers {
			readers[i] = reader{frontend: r.frontend, at: 2, set: r.set, index: uint32(i)}
		}
		return readers
	case 2:
		value, found := w.Lookup(abi.Slots, abi.Encode(abi.SlotKey{Set: r.set, Index: r.index}))
		if !found {
			w.broken(r, "slot %d of set %d is missing", r.index, r.set)
			return nil
		}
		var id uint32
		must(abi.Decode(value, &id))
		return []reader{{frontend: r.frontend, at: 3, set: r.set, backend: id}}
	}
	value, found := w.Lookup(abi.Backends, abi.Encode(r.backend))
	if !found {
		w.broken(r, "backend %d is missing", r.backend)
		return nil
	}
	var b abi.Backend
	must(abi.Decode(value, &b))
	if b.Set != r.set {
		// What programs take for a slot that was used again: bpf/include/service.h.
		w.broken(r, "backend %d is of set %d, and set %d led to it", r.backend, b.Set, r.set)
		return nil
	}
	w.end(r.frontend, to(abi.Addr(b.Addr), abi.HostPort(b.Port)))
	return nil
}

func (w *Witness) end(key model.FrontendKey, outcome Outcome) {
	if !w.allowed[key][outcome] {
		w.Problems[fmt.Sprintf("write %d: %s went to %s, which neither the rows before nor those after allow", w.time, key, outcome)] = true
	}
}

func (w *Witness) broken(r reader, format string, args ...any) {
	w.Problems[fmt.Sprintf("write %d: %s: ", w.time, r.frontend)+fmt.Sprintf(format, args...)] = true
}

// Stale says whether a problem is a path that is whole but not of the rows before or after: what a node that lags
// behind shows.
func Stale(problem string) bool { return strings.Contains(problem, " went to ") }

func must(err error) {
	if err != nil {
		panic(err)
	}
}
