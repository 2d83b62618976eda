// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

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
	staleBefore   stale

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
	nodesBefore        map[model.NodeID]was[model.Node]
	selvesBefore       map[model.SelfKey]was[model.Self]
	ruleSetsBefore     map[model.RuleSetID]was[model.RuleSet]
	rulesBefore        map[model.RuleID]was[model.Rule]
	portVerdictsBefore map[model.PortKey]was[model.PortVerdict]
	verdictsBefore     map[model.VerdictKey]was[model.Verdict]
	blocksBefore       map[netip.Prefix]was[model.Block]
	peersBefore        map[netip.Addr]was[model.Peer]
	histories          []history // all of these
	slotsBefore        map[model.SetID][]model.BackendID

	// What was pointed at before: sets by a frontend or view, backends by a slot. Only for sets and backends that
	// change; and, in pointedAt, for sets whose frontends change.
	wasRead   map[model.SetID]bool
	wasLinked map[model.BackendID]bool
	pointedAt map[model.SetID]bool

	// What of policy led to what before the change, where that may be otherwise after it; see uses.
	anyJudged    bool
	judgedBefore map[model.RuleSetID]int32
	heldBefore   map[model.IdentityID]int32
	verdictsNew  map[model.VerdictKey]bool

	// Backends that got a slot more, or have one less.
	joined, left []model.BackendID
	// What sets had of Maglev tables, those whose tables may change; see maglev.go.
	tablesBefore map[model.SetID]hadTable
	placeBefore  model.Place
	unsureBefore bool
	// linked says that the counts of pointers are those after the change.
	linked bool
}

type was[R any] struct {
	row  R
	kind model.LayerKind
}

func begin(s *State) *transaction {
	t := &transaction{
		State:              s,
		digestsBefore:      s.digests,
		entriesBefore:      s.entries,
		staleBefore:        s.stale,
		frontendsBefore:    map[model.FrontendKey]was[model.Frontend]{},
		viewsBefore:        map[model.ViewKey]was[model.View]{},
		setsBefore:         map[model.SetID]was[model.BackendSet]{},
		backendsBefore:     map[model.BackendID]was[model.Backend]{},
		membersBefore:      map[model.Member]was[model.Member]{},
		endpointsBefore:    map[netip.Addr]was[model.Endpoint]{},
		sourceRangesBefore: map[model.SourceRange]was[model.SourceRange]{},
		networksBefore:     map[netip.Prefix]was[model.Network]{},
		healthChecksBefore: map[uint16]was[model.HealthCheck]{},
		nodesBefore:        map[model.NodeID]was[model.Node]{},
		selvesBefore:       map[model.SelfKey]was[model.Self]{},
		ruleSetsBefore:     map[model.RuleSetID]was[model.RuleSet]{},
		rulesBefore:        map[model.RuleID]was[model.Rule]{},
		portVerdictsBefore: map[model.PortKey]was[model.PortVerdict]{},
		verdictsBefore:     map[model.VerdictKey]was[model.Verdict]{},
		blocksBefore:       map[netip.Prefix]was[model.Block]{},
		peersBefore:        map[netip.Addr]was[model.Peer]{},
		slotsBefore:        map[model.SetID][]model.BackendID{},
		judgedBefore:       map[model.RuleSetID]int32{},
		heldBefore:         map[model.IdentityID]int32{},
		verdictsNew:        map[model.VerdictKey]bool{},
		wasRead:            map[model.SetID]bool{},
		wasLinked:          map[model.BackendID]bool{},
		pointedAt:          map[model.SetID]bool{},
		tablesBefore:       map[model.SetID]hadTable{},
		placeBefore:        s.maglev.place,
		unsureBefore:       s.maglev.unsure,
	}
	t.histories = []history{
		frontends.since(t.frontendsBefore), views.since(t.viewsBefore), sets.since(t.setsBefore), backends.since(t.backendsBefore),
		members.since(t.membersBefore), endpoints.since(t.endpointsBefore), sourceRanges.since(t.sourceRangesBefore),
		networks.since(t.networksBefore), healthChecks.since(t.healthChecksBefore), nodes.since(t.nodesBefore), selves.since(t.selvesBefore),
		ruleSets.since(t.ruleSetsBefore), rules.since(t.rulesBefore), portVerdicts.since(t.portVerdictsBefore),
		verdicts.since(t.verdictsBefore), blocks.since(t.blocksBefore), peers.since(t.peersBefore),
	}
	return t
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
	diff := &t.changes[c.Kind]
	for _, h := range t.histories {
		h.take(&o, c.Change, diff)
	}
	t.digests[c.Kind] = t.tables[c.Kind].Apply(diff, t.digests[c.Kind])
	other := otherThan(c.Kind)
	o.strand()
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

// overlap is what a layer's change has to do with the layer's own rows and with the other layer's.
type overlap struct {
	t       *transaction
	kind    model.LayerKind
	mayTake bool
	added   int          // rows of keys that the layer didn't have
	taken   model.Change // what the other layer loses
	refused error
}

// strand takes from the other layer the members of the sets and backends that it loses: else they would be slots of this
// layer's sets, with backends of others.
func (o *overlap) strand() {
	if len(o.taken.Remove.Sets)+len(o.taken.Remove.Backends) == 0 {
		return
	}
	other := otherThan(o.kind)
	for m := range o.t.tables[other].Members {
		lost := slices.Contains(o.taken.Remove.Sets, m.Set) || slices.Contains(o.taken.Remove.Backends, m.Backend)
		if _, taken := o.t.membersBefore[m]; lost && !taken {
			o.t.membersBefore[m] = was[model.Member]{m, other}
			o.taken.Remove.Members = append(o.taken.Remove.Members, m)
		}
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
	t.undoTables()
	for id, slots := range t.slotsBefore {
		if slots == nil {
			delete(t.slots, id)
		} else {
			t.slots[id] = slots
		}
	}
	for _, kind := range kinds {
		var back model.Change
		for _, h := range t.histories {
			h.undo(&back, &t.changes[kind].Put, kind)
		}
		t.tables[kind].Apply(&back, model.Digest{})
	}
	t.digests, t.entries, t.stale = t.digestsBefore, t.entriesBefore, t.staleBefore
}
