// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	compilercore "github.com/deltaplane/deltaplane/services/compiler/core"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
	"github.com/deltaplane/deltaplane/services/programmer/plan/plantest"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// checks hold a history to what deltaplane promises. They look from outside: at what the streams accepted, at what the
// maps hold, at what the API server has.
type checks struct {
	*cluster
	// committed are all positions that DELTA has ever accepted, by layer.
	committed map[model.Layer]map[model.Position]bool
	log       *log
	// at is how far each node has come, by layer, as its programmer says.
	at      map[*node]map[model.LayerKind]model.Position
	seen    map[string]bool // problems of witnesses that were told
	deleted map[core.Key]uint64
	changes int  // of the API server that were looked at
	done    bool // all nodes hold what they should
}

// log is DELTA as the checker folds it: what rows each layer has, and which ids mean what.
type log struct {
	layers   map[model.Layer]*model.Tables
	at       map[model.Layer]model.Position
	parts    wire.Assembler
	sets     meanings[model.SetID, model.SetKey]
	backends meanings[model.BackendID, model.BackendKey]
	broken   bool        // something before is missing: rows and ids can't be followed
	reading  bool        // what is folded was committed before
	went     bool        // DELTA went back, and no checkpoint has come since
	ruling   model.Epoch // that was taken last
	open     *openCheckpoint
}

// openCheckpoint is a checkpoint that is being stored.
type openCheckpoint struct {
	left   uint32 // snapshots
	freed  []*schemas.FreedId
	parts  wire.SnapshotAssembler
	layers map[model.Layer]model.Snapshot
}

// meanings remember what an id meant last, and until when.
type meanings[I, K comparable] map[I]meaning[K]

type meaning[K any] struct {
	key   K
	freed time.Time // zero while it is in use
}

func newLog() *log {
	return &log{
		layers: map[model.Layer]*model.Tables{}, at: map[model.Layer]model.Position{},
		sets: meanings[model.SetID, model.SetKey]{}, backends: meanings[model.BackendID, model.BackendKey]{},
	}
}

func newChecks(c *cluster) *checks {
	k := &checks{
		cluster: c, committed: map[model.Layer]map[model.Position]bool{}, log: newLog(),
		at: map[*node]map[model.LayerKind]model.Position{}, seen: map[string]bool{}, deleted: map[core.Key]uint64{},
	}
	c.delta.stored = k.stored
	c.delta.replaced, c.state.stored = k.replaced, k.told
	for _, n := range c.nodes {
		k.at[n] = map[model.LayerKind]model.Position{}
		n.stepped = func() { k.stepped(n) }
	}
	return k
}

// stored takes what DELTA has accepted.
func (k *checks) stored(batch []record) {
	for _, r := range batch {
		if !isDelta(r.subject) {
			k.checkpointed(r)
			continue
		}
		part, err := wire.DecodeDelta(r.data)
		if err != nil {
			k.problem("log: DELTA has accepted what is no delta: %v", err)
			continue
		}
		if part.Epoch < k.log.ruling {
			continue // of a leader whose fence holds by chance, in another DELTA: nobody may believe it
		}
		d, whole, err := k.log.parts.Add(part)
		if err != nil {
			k.problem("log: %v", err)
		}
		if !whole {
			continue
		}
		to := model.Position{Epoch: d.Epoch, Revision: d.To, Digest: d.DigestAfter}
		k.commit(d.Layer, to)
		k.fold(&d, to)
	}
}

// checkpointed takes an epoch, or a part of a checkpoint, that DELTA has accepted: one that tells the rows of a log that was lost may
// name a revision that was being appended then.
func (k *checks) checkpointed(r record) {
	if r.subject == schemas.SubjectEpoch {
		var epoch schemas.Epoch
		_ = proto.Unmarshal(r.data, &epoch) // the simulation's own
		k.log.ruling = model.Epoch(epoch.GetEpoch())
		return
	}
	switch domain, _ := compilercore.DomainOf(r.subject, r.data); domain {
	case seal.Checkpoint:
		var head schemas.Checkpoint
		if err := proto.Unmarshal(r.data, &head); err != nil {
			k.problem("log: DELTA has accepted what is no checkpoint: %v", err)
		}
		k.log.open = &openCheckpoint{left: head.GetSnapshots(), freed: head.GetFreed(), layers: map[model.Layer]model.Snapshot{}}
	case seal.Snapshot:
		part, err := wire.DecodeSnapshot(r.data)
		if err != nil {
			k.problem("log: DELTA has accepted what is no snapshot: %v", err)
			return
		}
		if !k.log.reading {
			k.commit(part.Layer, part.Position)
		}
		if o := k.log.open; o != nil {
			o.left--
			if s, whole, err := o.parts.Add(part); err == nil && whole {
				o.layers[s.Layer] = s
			}
		}
	}
	if o := k.log.open; o != nil && o.left == 0 {
		k.log.goOnFrom(o)
	}
}

// goOnFrom begins with the rows of a checkpoint. After DELTA was lost or went back, or where it is read over a hole, these
// are what a compiler remembers of a history that nothing else does, or has compiled and numbered anew: ids mean what they
// say, and of what was in quarantine only counts what they name.
func (l *log) goOnFrom(o *openCheckpoint) {
	before := *l
	*l = *newLog()
	l.reading, l.ruling = before.reading, before.ruling
	for layer, s := range o.layers {
		rows := model.NewTables()
		rows.Apply(&model.Change{Put: s.Rows}, model.Digest{})
		l.layers[layer], l.at[layer] = rows, s.Position
		for id, row := range rows.Sets {
			l.sets[id] = meaning[model.SetKey]{key: row.SetKey}
		}
		for id, row := range rows.Backends {
			l.backends[id] = meaning[model.BackendKey]{key: row.BackendKey}
		}
	}
	if before.reading {
		l.went = before.went
	}
	if !before.went || before.reading && !before.broken {
		l.sets.keepFreed(before.sets)
		l.backends.keepFreed(before.backends)
		return
	}
	for _, f := range o.freed {
		l.sets.keepNamed(before.sets, model.SetID(f.GetSet()), f.GetFreed().AsTime())
		l.backends.keepNamed(before.backends, model.BackendID(f.GetBackend()), f.GetFreed().AsTime())
	}
}

func (k *checks) commit(l model.Layer, at model.Position) {
	if k.committed[l] == nil {
		k.committed[l] = map[model.Position]bool{}
	}
	k.committed[l][at] = true
}

// replaced begins anew with what DELTA holds after it was lost or went back.
func (k *checks) replaced() {
	k.log = newLog()
	k.log.reading, k.log.went = true, true
	for _, r := range k.delta.records {
		if !isDelta(r.subject) {
			k.checkpointed(r)
		} else if part, err := wire.DecodeDelta(r.data); err == nil && part.Epoch >= k.log.ruling {
			if d, whole, err := k.log.parts.Add(part); err == nil && whole {
				k.fold(&d, model.Position{Epoch: d.Epoch, Revision: d.To, Digest: d.DigestAfter})
			}
		}
	}
	k.log.reading = false
}

// fold takes one delta into the checker's own rows.
func (k *checks) fold(d *model.Delta, to model.Position) {
	l := k.log
	rows := l.layers[d.Layer]
	if rows == nil {
		rows = model.NewTables()
		l.layers[d.Layer] = rows
	}
	if l.at[d.Layer].Revision != d.From {
		l.broken = true // DELTA was lost or goes back; then all is compared with what was read of it
	}
	k.idsMean(d.Committed, &d.Change)
	digest := rows.Apply(&d.Change, l.at[d.Layer].Digest)
	if !l.broken && digest != d.DigestAfter {
		k.problem("log: the delta of %s to revision %d leads to digest %s, it says %s", d.Layer, d.To, digest, d.DigestAfter)
	}
	l.at[d.Layer] = to
}

// idsMean checks that no id means another thing before its quarantine is over, by the times that the log has: those count
// for whoever gives ids. Two leaders' clocks may be apart by as much as they are wrong. Nodes hear of a delta later, by as
// long as it took to store it.
func (k *checks) idsMean(now time.Time, change *model.Change) {
	least := k.options.Quarantine - 2*skewMost
	for _, id := range change.Remove.Sets {
		k.log.sets.free(id, now)
	}
	for _, id := range change.Remove.Backends {
		k.log.backends.free(id, now)
	}
	if k.log.broken {
		return
	}
	if k.log.reading {
		least = -1
	}
	for _, s := range change.Put.Sets {
		if text := k.log.sets.use(s.ID, s.SetKey, now, least); text != "" {
			k.problem("ids: set %s", text)
		}
	}
	for _, b := range change.Put.Backends {
		if text := k.log.backends.use(b.ID, b.BackendKey, now, least); text != "" {
			k.problem("ids: backend %s", text)
		}
	}
}

// keepFreed takes over what was in quarantine.
func (m meanings[I, K]) keepFreed(before meanings[I, K]) {
	for id, was := range before {
		if _, used := m[id]; !used && !was.freed.IsZero() {
			m[id] = was
		}
	}
}

// keepNamed takes over one that a checkpoint names.
func (m meanings[I, K]) keepNamed(before meanings[I, K], id I, freed time.Time) {
	was, known := before[id]
	if _, used := m[id]; known && !used {
		m[id] = meaning[K]{key: was.key, freed: freed}
	}
}

func (m meanings[I, K]) free(id I, now time.Time) {
	if was, known := m[id]; known && was.freed.IsZero() {
		was.freed = now
		m[id] = was
	}
}

func (m meanings[I, K]) use(id I, key K, now time.Time, least time.Duration) (problem string) {
	was, known := m[id]
	m[id] = meaning[K]{key: key}
	switch {
	case !known || was.key == key:
	case was.freed.IsZero():
		return fmt.Sprintf("%v means %v while it still means %v", id, key, was.key)
	case least > 0 && now.Sub(was.freed) < least:
		return fmt.Sprintf("%v means %v, %s after it meant %v", id, key, now.Sub(was.freed), was.key)
	}
	return ""
}

// told takes what STATE has accepted: nothing may be said to be gone that never was removed.
func (k *checks) told(batch []record) {
	for ; k.changes < len(k.api.changes); k.changes++ {
		if c := k.api.changes[k.changes]; c.gone {
			k.deleted[c.key] = c.version
		}
	}
	for _, r := range batch {
		var fact schemas.Fact
		if err := proto.Unmarshal(r.data, &fact); err != nil || fact.State != nil || r.subject == schemas.SubjectStateEpoch {
			continue
		}
		key := core.KeyOf(fact.GetObject())
		if _, exists := k.api.objects[key]; exists && k.deleted[key] == 0 && k.injected["list stale"]+k.injected["list empty"] == 0 {
			k.problem("state: %s is said to be gone, and never was", key)
		}
	}
}

// stepped looks at a node after each step of its programmer.
func (k *checks) stepped(n *node) {
	if !n.up {
		return
	}
	for _, l := range n.layers {
		is, _ := n.memory.Position(l.Kind) // memory can be read
		if is != k.at[n][l.Kind] {
			k.moved(n, l, k.at[n][l.Kind], is)
			k.at[n][l.Kind] = is
		}
	}
	if n.witness == nil {
		return
	}
	for _, problem := range slices.Sorted(maps.Keys(n.witness.Problems)) {
		if !k.seen[problem] && !plantest.Stale(problem) {
			k.seen[problem] = true
			k.problem("reader: %s: %s", n.name, problem)
		}
	}
}

// forget is for a node whose maps are gone.
func (k *checks) forget(n *node) { k.at[n] = map[model.LayerKind]model.Position{} }

// moved looks at a layer of a node that has come from one position to another: it must be one that DELTA has accepted,
// and not an older one.
func (k *checks) moved(n *node, l model.Layer, was, is model.Position) {
	n.note("is at", l.String(), uint64(is.Epoch), uint64(is.Revision))
	empty := is.Revision == 0 && is.Digest == model.Digest{}
	if !empty && !k.committed[l][is] {
		k.problem("committed: layer %s of %s is at %v, which the log never accepted", l, n.name, is)
	}
	if is.Epoch < was.Epoch || is.Epoch == was.Epoch && is.Revision < was.Revision {
		k.problem("monotonic: layer %s of %s went from %v back to %v", l, n.name, was, is)
	}
}

// watchConvergence looks from time to time whether all nodes hold what they should.
func (k *checks) watchConvergence() {
	if k.done = len(k.wrong()) == 0; !k.done {
		k.after(lookForConvergence, k.watchConvergence)
	}
}

// lookForConvergence is how often all is compared, which takes its time.
const lookForConvergence = 500 * time.Millisecond

func (k *checks) settled() bool { return k.done }

// final says what is wrong at the end.
func (k *checks) final() {
	for _, text := range k.wrong() {
		k.problem("converged: %s", text)
	}
}

// wrong returns what nodes don't hold that they should: at first sight, then compared with compiling everything.
func (k *checks) wrong() (problems []string) {
	leader := k.leader()
	if leader == nil {
		return append(problems, k.leaderless()...)
	}
	rows := map[model.Layer]*model.Tables{}
	for _, n := range k.nodes {
		problems = append(problems, k.wrongAt(n, leader)...)
		if len(problems) > 0 {
			return problems
		}
		found := n.holds()
		if !found.Whole() {
			problems = append(problems, n.name+": something was left behind in the maps")
		}
		for _, l := range n.layers {
			held := found.Tables(l.Kind)
			if rows[l] != nil && rows[l].Digest() != held.Digest() {
				problems = append(problems, fmt.Sprintf("%s: layer %s is another than on the nodes before", n.name, l))
			}
			rows[l] = held
			is, _ := n.memory.Position(l.Kind)
			if is.Digest != held.Digest() {
				problems = append(problems, fmt.Sprintf("%s: layer %s is recorded at %v, the maps' rows have digest %s", n.name, l, is, held.Digest()))
			}
		}
	}
	for l, want := range k.wanted(rows) {
		if rows[l] == nil || rows[l].Digest() != want.Digest() {
			problems = append(problems, fmt.Sprintf("layer %s is not what compiling all objects leads to", l))
		}
	}
	slices.Sort(problems)
	return problems
}

// wrongAt says what is wrong with a node at first sight.
func (k *checks) wrongAt(n *node, leader *compiling) []string {
	if !n.up {
		return []string{n.name + " is down"}
	}
	if err := n.driver.Core.Ready(); err != nil {
		return []string{fmt.Sprintf("%s: %v", n.name, err)}
	}
	positions := n.driver.Core.Positions()
	for _, l := range n.layers {
		is, should := positions[l], leader.core.Position(l)
		if is.Revision != should.Revision || is.Digest != should.Digest {
			return []string{fmt.Sprintf("%s: layer %s is at %v, the compiler's at %v", n.name, l, is, should)}
		}
	}
	return nil
}

func (k *checks) leader() *compiling {
	for _, c := range k.compilers {
		if t := c.current; c.up && t != nil && t.core != nil && t.core.Leads() && t.core.Waiting() == "" {
			return t
		}
	}
	return nil
}

// leaderless says why no compiler leads.
func (k *checks) leaderless() (why []string) {
	for _, c := range k.compilers {
		switch t := c.current; {
		case !c.up:
			why = append(why, c.name+" is down")
		case t == nil || t.core == nil:
			why = append(why, c.name+" reads the streams")
		case t.core.Leads():
			why = append(why, fmt.Sprintf("%s leads in epoch %d and waits %s", c.name, t.fence.epoch, t.core.Waiting()))
		default:
			why = append(why, fmt.Sprintf("%s stands by, able %t: %s", c.name, t.core.Able(), t.core.Waiting()))
		}
	}
	return why
}

// wanted compiles everything from the objects that the API server has, with the ids that rows have.
func (k *checks) wanted(rows map[model.Layer]*model.Tables) map[model.Layer]*model.Tables {
	db := state.New()
	var facts []*schemas.Fact
	for _, kind := range kinds {
		for _, key := range k.api.sorted(kind) {
			if in, ok := converted(k.api.objects[key]).(core.Upsert); ok {
				facts = append(facts, in.Fact)
			}
		}
	}
	if _, err := db.Apply(facts...); err != nil {
		panic("sim: " + err.Error())
	}
	alloc := ids.New(k.options.Quarantine)
	for _, l := range slices.SortedFunc(maps.Keys(rows), func(a, b model.Layer) int { return strings.Compare(a.String(), b.String()) }) {
		alloc.Fold(model.NewTables(), &model.Change{Put: rows[l].Rows()}, k.now)
	}
	layers := compile.FullFrom(db.Snapshot(), alloc, compile.Settings{}, rows).Layers
	for l := range rows {
		if layers[l] == nil {
			layers[l] = model.NewTables()
		}
	}
	return layers
}
