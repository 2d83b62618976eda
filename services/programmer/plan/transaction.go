// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// transaction is a change on its way into a State. It keeps what was before: to tell new rows from replaced ones,
// and to undo.
type transaction struct {
	*State
	// What differs, layer by layer. Rows that are already as wanted are not in it.
	changes       [model.LayerNode + 1]model.Change
	digestsBefore [model.LayerNode + 1]model.Digest
	entriesBefore [len(State{}.entries)]int

	// The rows before, of keys that are changed or removed.
	frontendsBefore    map[model.FrontendKey]was[model.Frontend]
	viewsBefore        map[model.ViewKey]was[model.View]
	setsBefore         map[model.SetID]was[model.BackendSet]
	backendsBefore     map[model.BackendID]was[model.Backend]
	membersBefore      map[model.Member]was[model.Member]
	endpointsBefore    map[netip.Addr]was[model.Endpoint]
	sourceRangesBefore map[model.SourceRange]was[model.SourceRange]
	networksBefore     map[netip.Prefix]was[model.Network]
	healthChecksBefore map[uint16]was[model.HealthCheck]
	selvesBefore       map[model.SelfKey]was[model.Self]
	slotsBefore        map[model.SetID][]model.BackendID

	// What was pointed at before: sets by a frontend or view, backends by a slot. Only for sets and backends that
	// change; and, in pointedAt, for sets whose frontends change.
	wasRead   map[model.SetID]bool
	wasLinked map[model.BackendID]bool
	pointedAt map[model.SetID]bool

	// Backends that got a slot more, or have one less.
	joined, left []model.BackendID
	// linked says that the counts of pointers are those after the change.
	linked bool
}

type was[R any] struct {
	row  R
	kind model.LayerKind
}

func begin(s *State) *transaction {
	return &transaction{
		State:              s,
		digestsBefore:      s.digests,
		entriesBefore:      s.entries,
		frontendsBefore:    map[model.FrontendKey]was[model.Frontend]{},
		viewsBefore:        map[model.ViewKey]was[model.View]{},
		setsBefore:         map[model.SetID]was[model.BackendSet]{},
		backendsBefore:     map[model.BackendID]was[model.Backend]{},
		membersBefore:      map[model.Member]was[model.Member]{},
		endpointsBefore:    map[netip.Addr]was[model.Endpoint]{},
		sourceRangesBefore: map[model.SourceRange]was[model.SourceRange]{},
		networksBefore:     map[netip.Prefix]was[model.Network]{},
		healthChecksBefore: map[uint16]was[model.HealthCheck]{},
		selvesBefore:       map[model.SelfKey]was[model.Self]{},
		slotsBefore:        map[model.SetID][]model.BackendID{},
		wasRead:            map[model.SetID]bool{},
		wasLinked:          map[model.BackendID]bool{},
		pointedAt:          map[model.SetID]bool{},
	}
}

func (t *transaction) run(capacities Capacities, changes []LayerChange) ([]Phase, error) {
	for i := range changes {
		if err := t.take(&changes[i]); err != nil {
			return nil, err
		}
	}
	t.evict()
	t.link()
	if err := t.check(); err != nil {
		return nil, err
	}
	return t.phases(capacities)
}

// take brings one layer's change into the tables.
func (t *transaction) take(c *LayerChange) error {
	rows := t.tables[c.Kind].Len()
	if rows == 0 {
		t.tables[c.Kind] = roomFor(&c.Change.Put)
	}
	o := overlap{t: t, kind: c.Kind, mayTake: c.TakeOver}
	put, remove := &c.Change.Put, &c.Change.Remove
	diff := &t.changes[c.Kind]
	diff.Put.Frontends, diff.Remove.Frontends = differing(&o, frontends.of, put.Frontends, remove.Frontends, t.frontendsBefore)
	diff.Put.Views, diff.Remove.Views = differing(&o, views.of, put.Views, remove.Views, t.viewsBefore)
	diff.Put.Sets, diff.Remove.Sets = differing(&o, setsOf, put.Sets, remove.Sets, t.setsBefore)
	diff.Put.Backends, diff.Remove.Backends = differing(&o, backends.of, put.Backends, remove.Backends, t.backendsBefore)
	diff.Put.Members, diff.Remove.Members = differing(&o, membersOf, put.Members, remove.Members, t.membersBefore)
	diff.Put.Endpoints, diff.Remove.Endpoints = differing(&o, endpoints.of, put.Endpoints, remove.Endpoints, t.endpointsBefore)
	diff.Put.SourceRanges, diff.Remove.SourceRanges = differing(&o, sourceRanges.of, put.SourceRanges, remove.SourceRanges, t.sourceRangesBefore)
	diff.Put.Networks, diff.Remove.Networks = differing(&o, networks.of, put.Networks, remove.Networks, t.networksBefore)
	diff.Put.HealthChecks, diff.Remove.HealthChecks = differing(&o, healthChecks.of, put.HealthChecks, remove.HealthChecks, t.healthChecksBefore)
	diff.Put.Selves, diff.Remove.Selves = differing(&o, selves.of, put.Selves, remove.Selves, t.selvesBefore)
	t.digests[c.Kind] = t.tables[c.Kind].Apply(diff, t.digests[c.Kind])
	other := otherThan(c.Kind)
	t.digests[other] = t.tables[other].Apply(&o.taken, t.digests[other])
	switch want := rows + o.added - diff.Remove.Len(); {
	case o.refused != nil:
		return o.refused
	case t.tables[c.Kind].Len() != want:
		return refuse("rows", "the change of layer %s names a key twice", word(c.Kind))
	case c.After != nil && t.digests[c.Kind] != *c.After:
		return refuse("digest", "after the change layer %s would have digest %s and not %s as announced",
			word(c.Kind), t.digests[c.Kind], *c.After)
	}
	return nil
}

// roomFor returns empty tables that needn't grow when they take rows.
func roomFor(rows *model.Rows) *model.Tables {
	tables := model.NewTables()
	tables.Frontends = make(map[model.FrontendKey]model.Frontend, len(rows.Frontends))
	tables.Sets = make(map[model.SetID]model.BackendSet, len(rows.Sets))
	tables.Backends = make(map[model.BackendID]model.Backend, len(rows.Backends))
	tables.Members = make(map[model.Member]model.Member, len(rows.Members))
	tables.Views = make(map[model.ViewKey]model.View, len(rows.Views))
	return tables
}

func otherThan(kind model.LayerKind) model.LayerKind {
	if kind == model.LayerCluster {
		return model.LayerNode
	}
	return model.LayerCluster
}

func setsOf(t *model.Tables) map[model.SetID]model.BackendSet { return t.Sets }
func membersOf(t *model.Tables) map[model.Member]model.Member { return t.Members }

// overlap is what a layer's change has to do with the layer's own rows and with the other layer's.
type overlap struct {
	t       *transaction
	kind    model.LayerKind
	mayTake bool
	added   int          // rows of keys that the layer didn't have
	taken   model.Change // what the other layer loses
	refused error
}

// differing returns the rows and keys of a change that aren't already so, and notes in before what they replace.
func differing[K comparable, R row[K]](o *overlap, of func(*model.Tables) map[K]R, put []R, remove []K, before map[K]was[R]) (puts []R, removes []K) {
	own, others := of(o.t.tables[o.kind]), of(o.t.tables[otherThan(o.kind)])
	for _, key := range remove {
		if old, held := own[key]; held {
			before[key] = was[R]{old, o.kind}
			removes = append(removes, key)
		}
	}
	puts = make([]R, 0, len(put))
	for _, r := range put {
		old, held := own[r.Key()]
		if held && old == r {
			continue
		}
		puts = append(puts, r)
		if held {
			before[r.Key()] = was[R]{old, o.kind}
			continue
		}
		o.added++
		if old, held := others[r.Key()]; held {
			before[r.Key()] = was[R]{old, otherThan(o.kind)}
			o.take(any(r.Key()))
		}
	}
	return puts, removes
}

func (o *overlap) take(key any) {
	if !o.mayTake && o.refused == nil {
		o.refused = refuse("rows", "the change of layer %s puts %v, which layer %s holds", word(o.kind), key, word(otherThan(o.kind)))
	}
	keys := &o.taken.Remove
	switch key := key.(type) {
	case model.FrontendKey:
		keys.Frontends = append(keys.Frontends, key)
	case model.SetID:
		keys.Sets = append(keys.Sets, key)
	case model.BackendID:
		keys.Backends = append(keys.Backends, key)
	case model.Member:
		keys.Members = append(keys.Members, key)
	case netip.Addr:
		keys.Endpoints = append(keys.Endpoints, key)
	case model.ViewKey:
		keys.Views = append(keys.Views, key)
	case model.SourceRange:
		keys.SourceRanges = append(keys.SourceRanges, key)
	case netip.Prefix:
		keys.Networks = append(keys.Networks, key)
	case uint16:
		keys.HealthChecks = append(keys.HealthChecks, key)
	case model.SelfKey:
		keys.Selves = append(keys.Selves, key)
	default:
		panic(fmt.Sprintf("plan: key of type %T", key))
	}
}

// evict takes away what one layer says of a set whose id means another Service after the other layer's change: else its
// clients were led to the old Service's backends. The layer's digest says so, and it is asked for as a whole.
func (t *transaction) evict() {
	var gone model.Change
	for _, s := range t.changes[model.LayerCluster].Put.Sets {
		for _, scope := range []model.Scope{model.ScopeNode, model.ScopeLocal} {
			v, held := t.tables[model.LayerNode].Views[model.ViewKey{Set: s.ID, Scope: scope}]
			if !held || t.fits(v) == nil {
				continue
			}
			if _, changed := t.viewsBefore[v.ViewKey]; !changed {
				t.viewsBefore[v.ViewKey] = was[model.View]{v, model.LayerNode}
				gone.Remove.Views = append(gone.Remove.Views, v.ViewKey)
			}
		}
	}
	t.digests[model.LayerNode] = t.tables[model.LayerNode].Apply(&gone, t.digests[model.LayerNode])
}

// undo takes the state back to where it was.
func (t *transaction) undo() {
	if t.linked {
		t.count(-1)
	}
	for id, slots := range t.slotsBefore {
		if slots == nil {
			delete(t.slots, id)
		} else {
			t.slots[id] = slots
		}
	}
	for _, kind := range kinds {
		var back model.Change
		put := &t.changes[kind].Put
		back.Remove.Frontends = keysOf(put.Frontends)
		back.Remove.Sets = keysOf(put.Sets)
		back.Remove.Backends = keysOf(put.Backends)
		back.Remove.Members = keysOf(put.Members)
		back.Remove.Endpoints = keysOf(put.Endpoints)
		back.Remove.Views = keysOf(put.Views)
		back.Remove.SourceRanges = keysOf(put.SourceRanges)
		back.Remove.Networks = keysOf(put.Networks)
		back.Remove.HealthChecks = keysOf(put.HealthChecks)
		back.Remove.Selves = keysOf(put.Selves)
		back.Put.Frontends = rowsOf(t.frontendsBefore, kind)
		back.Put.Sets = rowsOf(t.setsBefore, kind)
		back.Put.Backends = rowsOf(t.backendsBefore, kind)
		back.Put.Members = rowsOf(t.membersBefore, kind)
		back.Put.Endpoints = rowsOf(t.endpointsBefore, kind)
		back.Put.Views = rowsOf(t.viewsBefore, kind)
		back.Put.SourceRanges = rowsOf(t.sourceRangesBefore, kind)
		back.Put.Networks = rowsOf(t.networksBefore, kind)
		back.Put.HealthChecks = rowsOf(t.healthChecksBefore, kind)
		back.Put.Selves = rowsOf(t.selvesBefore, kind)
		t.tables[kind].Apply(&back, model.Digest{})
	}
	t.digests, t.entries = t.digestsBefore, t.entriesBefore
}

func keysOf[K comparable, R row[K]](rows []R) []K {
	keys := make([]K, len(rows))
	for i, r := range rows {
		keys[i] = r.Key()
	}
	return keys
}

func rowsOf[K comparable, R any](before map[K]was[R], kind model.LayerKind) (rows []R) {
	for _, w := range before {
		if w.kind == kind {
			rows = append(rows, w.row)
		}
	}
	return rows
}
