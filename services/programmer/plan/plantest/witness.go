// SPDX-License-Identifier: Apache-2.0

// Package plantest watches maps being written, as every packet that could be on its way would see them. Only tests
// import it.
package plantest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	programmer "github.com/deltaplane/deltaplane/services/programmer/maps"
)

// Witness wraps maps in memory and follows every reader: at each point of time a reader of every frontend starts,
// and each that runs either goes on to its next lookup or waits. A reader that is still on its way when a grace
// period ends can't exist. In the same way a program is followed for every connection that policy is asked about. Whatever a reader finds must be allowed by the rows before or after the change in
// progress.
type Witness struct {
	*programmer.Memory
	// Problems are the broken paths that were seen, each once.
	Problems map[string]bool
	// Closes says that a change may have pods closed while it is made: what is there and what comes don't fit together.
	Closes bool

	allowed map[Dialled]map[Outcome]bool
	before  map[Dialled]map[Outcome]bool
	now     map[Dialled]map[Outcome]bool
	rows    []*model.Tables
	earlier [][]*model.Tables // the rows before each change since the last grace period
	cut     [][]*model.Tables // what the change in progress went towards before it was cut short
	running map[reader]bool
	time    int

	verdicts  map[Asked]map[string]bool // allowed
	judging   map[judge]bool            // programs on their way
	endpoints map[string]abi.Endpoint   // what values of the map say
}

// reader is a packet's program between two lookups.
type reader struct {
	Dialled
	at    step
	kind  model.FrontendKind
	flags model.FrontendFlags
	root  uint32
	hints model.SetFlags // of the root
	all   uint32         // the root's count, then that of the set that is picked from
	scope model.Scope    // of the view that is looked for
	place uint64
	set   uint32 // that is picked from
	index uint32 // of the slot, or of the Maglev table
	id    uint32 // of the backend
}

// step is what a reader reads next.
type step int

const (
	readRoot step = iota
	readRange
	readSelf
	readView
	readPart
	readTable
	readAlike // a backend of a table
	readSlot
	readBackend
)

// NewWitness watches memory, which holds rows.
func NewWitness(memory *programmer.Memory, rows ...*model.Tables) *Witness {
	w := &Witness{
		Memory: memory, Problems: map[string]bool{}, running: map[reader]bool{}, judging: map[judge]bool{},
		endpoints: map[string]abi.Endpoint{}, now: Outcomes(rows...), rows: rows,
	}
	w.before = w.now
	w.earlier = [][]*model.Tables{rows}
	w.forget()
	w.step()
	return w
}

// Expect says that a change towards rows begins. Readers from before may still be on their way.
func (w *Witness) Expect(rows ...*model.Tables) {
	w.before, w.now = w.now, Outcomes(rows...)
	w.earlier, w.rows, w.cut = append(append(w.earlier, w.cut...), w.rows), rows, nil
	w.allowChange()
}

// Instead says that the change in progress, which was cut short, goes on towards other rows.
func (w *Witness) Instead(rows ...*model.Tables) {
	w.cut = append(w.cut, w.rows)
	w.now, w.rows = Outcomes(rows...), rows
	w.allowChange()
}

// forget allows only what the change in progress allows: no reader from before it runs any more.
func (w *Witness) forget() {
	w.allowed = map[Dialled]map[Outcome]bool{}
	w.earlier = w.earlier[len(w.earlier)-1:]
	w.allowChange()
}

func (w *Witness) allowChange() {
	w.allow(w.before)
	w.allow(w.now)
	for _, rows := range w.earlier {
		for _, hybrid := range []*model.Tables{merged(rows), merged(w.rows), leaving(rows, w.rows), unviewed(rows, w.rows)} {
			w.allow(Outcomes(ranged(hybrid, rows, w.rows)))
		}
	}
	w.allowMissing(w.before, w.now)
	w.allowMissing(w.now, w.before)
	w.allowVerdicts()
}

func (w *Witness) allow(outcomes map[Dialled]map[Outcome]bool) {
	for key, set := range outcomes {
		if w.allowed[key] == nil {
			w.allowed[key] = map[Outcome]bool{}
		}
		maps.Copy(w.allowed[key], set)
	}
}

func (w *Witness) allowMissing(in, lacking map[Dialled]map[Outcome]bool) {
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

// Fill implements Maps: readers run between any two tables. In each slot one finds what was or what is.
func (w *Witness) Fill(tables []programmer.Table) error {
	for i := range tables {
		if err := w.Memory.Fill(tables[i : i+1]); err != nil {
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
	clear(w.judging)
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
	w.judges()
}

func (w *Witness) start(d Dialled) {
	value, found := w.Lookup(abi.Frontends, abi.Encode(abi.KeyOfFrontend(d.FrontendKey)))
	if !found {
		w.end(d, NoFrontend)
		return
	}
	var f abi.Frontend
	must(abi.Decode(value, &f))
	if model.FrontendKind(f.Kind) == model.FrontendRefused {
		w.end(d, WrongPort)
		return
	}
	w.running[reader{Dialled: d, root: f.Set, kind: model.FrontendKind(f.Kind), flags: model.FrontendFlags(f.Flags)}] = true
}

// next returns what a reader may be after its next lookup: the steps of bpf/include/service.h.
func (w *Witness) next(r reader) []reader {
	switch r.at {
	case readRoot:
		return w.root(r)
	case readRange:
		if !w.inRange(r) {
			w.end(r.Dialled, OutOfRange)
			return nil
		}
		return w.counted(r)
	case readSelf:
		return w.self(r)
	case readView:
		return w.view(r)
	case readPart:
		return w.part(r)
	case readTable:
		return w.table(r)
	case readAlike:
		return w.alike(r)
	case readSlot:
		return w.slot(r)
	}
	w.backend(r)
	return nil
}

func (w *Witness) root(r reader) []reader {
	value, found := w.Lookup(abi.Sets, abi.Encode(r.root))
	if !found {
		w.broken(r, "set %d is missing", r.root)
		return nil
	}
	var s abi.BackendSet
	must(abi.Decode(value, &s))
	if s.Root != r.root {
		w.broken(r, "a frontend points at set %d, a part of %d", r.root, s.Root)
	}
	r.all, r.hints = s.Count, model.SetFlags(s.Flags)
	if r.flags&model.SourceRanges != 0 {
		r.at = readRange
		return []reader{r}
	}
	return w.counted(r)
}

func (w *Witness) inRange(r reader) (found bool) {
	must(programmer.Dump(w.Memory, abi.SourceRanges, func(key, _ []byte) error {
		var k abi.SourceRangeKey
		must(abi.Decode(key, &k))
		bits := int(k.Bits) - 32 - 96
		inside := bits >= 0 && netip.PrefixFrom(abi.Addr(k.Addr), bits).Contains(r.Client.Addr)
		found = found || inside && binary.BigEndian.Uint32(k.Set[:]) == r.root
		return nil
	}))
	return found
}

// counted goes on with a root's row read.
func (w *Witness) counted(r reader) []reader {
	switch {
	case r.all == 0:
		w.end(r.Dialled, Refused)
		return nil
	case local(r.kind, r.flags, r.Client):
		r.at, r.scope = readView, model.ScopeLocal
	case r.hints&model.Fallback != 0:
		return w.pick(r, r.root, r.all, r.hints)
	case r.hints&model.NodeHints != 0:
		r.at, r.scope = readView, model.ScopeNode
	case r.hints&model.ZoneHints != 0:
		r.at = readSelf
	default:
		return w.pick(r, r.root, r.all, r.hints)
	}
	return []reader{r}
}

func (w *Witness) self(r reader) []reader {
	r.scope = model.ScopeZone
	value, found := w.Lookup(abi.Selves, abi.Encode(uint32(0)))
	if !found {
		return w.unseen(r)
	}
	var s abi.Self
	must(abi.Decode(value, &s))
	if s.Place == 0 {
		return w.unseen(r)
	}
	r.at, r.place = readView, s.Place
	return []reader{r}
}

func (w *Witness) view(r reader) []reader {
	value, found := w.Lookup(abi.Views, abi.Encode(abi.ViewKey{Place: r.place, Set: r.root, Scope: uint8(r.scope)}))
	if !found {
		return w.unseen(r)
	}
	var v abi.View
	must(abi.Decode(value, &v))
	r.at, r.set = readPart, v.Set
	return []reader{r}
}

// unseen goes on without the view that was looked for.
func (w *Witness) unseen(r reader) []reader {
	switch {
	case r.scope == model.ScopeLocal:
		w.end(r.Dialled, NoLocal)
		return nil
	case r.scope == model.ScopeNode && r.hints&model.ZoneHints != 0:
		r.at = readSelf
		return []reader{r}
	}
	return w.pick(r, r.root, r.all, r.hints)
}

func (w *Witness) part(r reader) []reader {
	value, found := w.Lookup(abi.Sets, abi.Encode(r.set))
	if !found {
		w.broken(r, "set %d, which a view leads to, is missing", r.set)
		return nil
	}
	var s abi.BackendSet
	must(abi.Decode(value, &s))
	if s.Root != r.root {
		w.broken(r, "set %d is a part of set %d, and a view of set %d led to it", r.set, s.Root, r.root)
		return nil
	}
	if s.Count == 0 {
		return w.unseen(r)
	}
	return w.pick(r, r.set, s.Count, model.SetFlags(s.Flags))
}

// pick goes on to the set's Maglev table, if the client is from outside and it has one, else to any slot.
func (w *Witness) pick(r reader, set, count uint32, flags model.SetFlags) []reader {
	r = reader{Dialled: r.Dialled, root: r.root, set: set, all: count}
	if !r.Inside && flags&model.External != 0 {
		if value, found := w.Lookup(abi.MaglevIndex, abi.Encode(set)); found {
			must(abi.Decode(value, &r.index))
			r.at = readTable
			return []reader{r}
		}
	}
	return slots(r)
}

func slots(r reader) []reader {
	readers := make([]reader, r.all)
	for i := range readers {
		readers[i] = reader{Dialled: r.Dialled, at: readSlot, root: r.root, set: r.set, index: uint32(i)}
	}
	return readers
}

// table goes on to each backend that a table has.
func (w *Witness) table(r reader) (readers []reader) {
	seen := map[uint32]bool{}
	for _, id := range w.Slots(r.index) {
		if !seen[id] {
			seen[id] = true
			readers = append(readers, reader{Dialled: r.Dialled, at: readAlike, root: r.root, set: r.set, all: r.all, id: id})
		}
	}
	return readers
}

// alike ends at a backend of a table, or goes on to any slot where that is gone or another Service's.
func (w *Witness) alike(r reader) []reader {
	if value, found := w.Lookup(abi.Backends, abi.Encode(r.id)); found {
		var b abi.Backend
		must(abi.Decode(value, &b))
		if b.Set == r.root {
			w.end(r.Dialled, to(abi.Addr(b.Addr), abi.HostPort(b.Port)))
			return nil
		}
	}
	return slots(r)
}

func (w *Witness) slot(r reader) []reader {
	value, found := w.Lookup(abi.Slots, abi.Encode(abi.SlotKey{Set: r.set, Index: r.index}))
	if !found {
		w.broken(r, "slot %d of set %d is missing", r.index, r.set)
		return nil
	}
	var id uint32
	must(abi.Decode(value, &id))
	return []reader{{Dialled: r.Dialled, at: readBackend, root: r.root, set: r.set, id: id}}
}

func (w *Witness) backend(r reader) {
	value, found := w.Lookup(abi.Backends, abi.Encode(r.id))
	if !found {
		w.broken(r, "backend %d is missing", r.id)
		return
	}
	var b abi.Backend
	must(abi.Decode(value, &b))
	if b.Set != r.root {
		// What programs take for a slot that was used again.
		w.broken(r, "backend %d is of set %d, and set %d of root %d led to it", r.id, b.Set, r.set, r.root)
		return
	}
	w.end(r.Dialled, to(abi.Addr(b.Addr), abi.HostPort(b.Port)))
}

func (w *Witness) end(d Dialled, outcome Outcome) {
	if !w.allowed[d][outcome] {
		w.Problems[fmt.Sprintf("write %d: %s dialled by %s (inside %t) went to %s, which neither the rows before nor those after allow",
			w.time, d.FrontendKey, d.Client.Addr, d.Inside, outcome)] = true
	}
}

func (w *Witness) broken(r reader, format string, args ...any) {
	w.Problems[fmt.Sprintf("write %d: %s: ", w.time, r.FrontendKey)+fmt.Sprintf(format, args...)] = true
}

// Stale says whether a problem is a path that is whole but not of the rows before or after: what a node that lags
// behind shows.
func Stale(problem string) bool { return strings.Contains(problem, " went to ") }

func must(err error) {
	if err != nil {
		panic(err)
	}
}
