// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/services/programmer/carry"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// compiler is the other side: what every layer should hold at every revision.
type compiler struct {
	epoch    model.Epoch
	revision model.Revision
	layers   map[model.Layer]*model.Tables
	at       map[model.Layer]model.Position
	log      []model.Delta
	refuse   string // why sync is not answered
}

func newCompiler() *compiler {
	c := &compiler{epoch: 1, layers: map[model.Layer]*model.Tables{}, at: map[model.Layer]model.Position{}}
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer("a")} {
		c.layers[l] = model.NewTables()
		c.at[l] = model.Position{Epoch: 1}
	}
	return c
}

// commit makes a layer's rows those of wanted.
func (c *compiler) commit(l model.Layer, wanted *model.Tables, now time.Time) core.Delta {
	c.revision++
	d := model.Delta{
		Epoch: c.epoch, Layer: l, From: c.at[l].Revision, To: c.revision, Change: *model.Diff(c.layers[l], wanted),
		DigestAfter: wanted.Digest(), Committed: now,
		Causes: []model.Cause{{Kind: "EndpointSlice", Namespace: "shop", Name: "web", Trigger: now}},
	}
	c.layers[l] = wanted.Clone()
	c.at[l] = model.Position{Epoch: c.epoch, Revision: c.revision, Digest: d.DigestAfter}
	c.log = append(c.log, d)
	return core.Delta{Delta: d, Bytes: 100}
}

func (c *compiler) heartbeat() core.Heartbeat {
	return core.Heartbeat{Epoch: c.epoch, Revision: c.revision, Positions: c.at}
}

// answer is what a sync brings.
func (c *compiler) answer(s core.Sync) []core.Input {
	if c.refuse != "" {
		return []core.Input{core.SyncEnded{Err: fmt.Errorf("%s", c.refuse)}}
	}
	var inputs []core.Input
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer("a")} {
		theirs, known := s.Positions[l]
		if at := c.at[l]; known && theirs.Revision < 1<<32 && (theirs.Epoch > at.Epoch || theirs.Epoch == at.Epoch && theirs.Revision > at.Revision) {
			c.revision = max(c.revision, theirs.Revision) // its log was cut: it goes above
			c.commit(l, c.layers[l], time.Unix(1_000_000, 0))
		}
		deltas, found := c.since(l, theirs)
		i := slices.IndexFunc(s.Walks, func(w model.Walk) bool { return w.Layer == l })
		switch {
		case i >= 0:
			inputs = append(inputs, c.walk(s.Walks[i]))
		case known && theirs.Revision == c.at[l].Revision && theirs.Digest == c.at[l].Digest:
		case known && found:
			inputs = append(inputs, deltas...)
		case known:
			inputs = append(inputs, c.walk(model.Walk{Layer: l, Branches: []model.Branch{model.Root}}))
		default:
			inputs = append(inputs, c.walk(model.Walk{Layer: l, All: true}))
		}
	}
	return append(inputs, core.SyncEnded{})
}

// walk answers one step of a walk, as a compiler does.
func (c *compiler) walk(w model.Walk) core.Input {
	rows := c.layers[w.Layer].Rows()
	s := walk.Source{Layer: w.Layer, Position: c.at[w.Layer], Tables: c.layers[w.Layer], Tree: model.NewTree(&rows)}
	b := model.Branches{Layer: s.Layer, Position: s.Position}
	for _, asked := range w.Branches {
		b.Held = append(b.Held, s.Held(asked))
	}
	if w.All {
		for part := range walk.PieceAt(w.From, s.Tree.Len(), 100).Branches() {
			b.Held = append(b.Held, s.All(part))
		}
	}
	return core.Branches{Branches: b, Bytes: 1000}
}

func (c *compiler) since(l model.Layer, from model.Position) (inputs []core.Input, found bool) {
	for _, d := range c.log {
		if d.Layer == l && d.From == from.Revision && c.was(l, from) {
			found = true
		}
		if found && d.Layer == l && d.To > from.Revision {
			inputs = append(inputs, core.Delta{Delta: d, Bytes: 100, Synced: true})
		}
	}
	return inputs, found
}

// was says whether a position is one that the layer had.
func (c *compiler) was(l model.Layer, p model.Position) bool {
	return p.Digest == model.Digest{} || slices.ContainsFunc(c.log, func(d model.Delta) bool {
		return d.Layer == l && d.To == p.Revision && d.DigestAfter == p.Digest
	})
}

// node is a programmer without its shell, in a time of its own.
type node struct {
	t        testing.TB
	compiler *compiler
	maps     maps.Maps
	driver   carry.Driver
	now      time.Time
	deaf     bool // syncs get no answer at all

	syncs   []core.Sync
	reports []core.Report
	events  []core.Event
	wanted  []model.Endpoint
	moves   int // how often another server of the bus was wanted
}

func start(t testing.TB, c *compiler, m maps.Maps, capacities ...plan.Capacities) *node {
	t.Helper()
	return startWith(t, c, m, false, capacities...)
}

// startWith starts a node that may put off what its plans have left to reclaim.
func startWith(t testing.TB, c *compiler, m maps.Maps, puttingOff bool, capacities ...plan.Capacities) *node {
	t.Helper()
	n := &node{t: t, compiler: c, maps: m, now: time.Unix(1_000_000, 0)}
	config := core.Config{Node: "a", Seed: 7}
	if len(capacities) > 0 {
		config.Capacities = capacities[0]
	}
	n.driver = carry.Driver{Core: core.New(config), Maps: m, Now: func() time.Time { return n.now }, Defer: puttingOff}
	n.put(core.Tick{})
	return n
}

// put gives the core an input, and answers its syncs.
func (n *node) put(in core.Input) { n.react(n.driver.Step(in)) }

func (n *node) react(effects []core.Effect) {
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		switch e := e.(type) {
		case core.Sync:
			n.syncs = append(n.syncs, e)
			if n.deaf {
				continue
			}
			for _, in := range n.compiler.answer(e) {
				effects = append(effects, n.driver.Step(in)...)
			}
		case core.Report:
			n.reports = append(n.reports, e)
		case core.Event:
			n.events = append(n.events, e)
		case core.Endpoints:
			n.wanted = e.Wanted
		case core.Elsewhere:
			n.moves++
		}
	}
}

// pass lets time pass in ticks, with heartbeats.
func (n *node) pass(d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(core.TickInterval)
		n.react(n.driver.Finish())
		n.put(core.Tick{})
		if n.now.UnixMilli()%1000 == 0 {
			n.put(n.compiler.heartbeat())
		}
	}
}

// converged checks that the maps hold what the compiler wants, and that the node says so.
func (n *node) converged() {
	n.t.Helper()
	n.react(n.driver.Finish())
	found := n.load()
	for l, rows := range n.compiler.layers {
		if diff := cmp.Diff(rows, found.Tables(l.Kind), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			n.t.Errorf("layer %s (-want +in the maps):\n%s", l, diff)
		}
		at := n.compiler.at[l]
		if got := n.driver.Core.Positions()[l]; got != at {
			n.t.Errorf("layer %s: the node says it is at %v, want %v", l, got, at)
		}
		if got, err := n.maps.Position(l.Kind); err != nil || got != at {
			n.t.Errorf("layer %s: recorded is %v (%v), want %v", l, got, err, at)
		}
	}
	if !found.Whole() {
		n.t.Error("something was left behind in the maps")
	}
	if found.Entries() != n.driver.Core.Entries() {
		n.t.Errorf("%v entries in the maps, the core counts %v", found.Entries(), n.driver.Core.Entries())
	}
}

func (n *node) load() *plan.State {
	n.t.Helper()
	found, err := plan.Load(func(m abi.Map, each func(key, value []byte) error) error { return maps.Dump(n.maps, m, each) })
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

func (n *node) lastReport() core.Report {
	n.t.Helper()
	if len(n.reports) == 0 {
		n.t.Fatal("no report")
	}
	return n.reports[len(n.reports)-1]
}

func (n *node) saw(kind string) bool {
	return slices.ContainsFunc(n.events, func(e core.Event) bool { return e.Kind == kind })
}

// shop is n Services with some backends each, whose addresses depend on generation.
func shop(services, backends, generation int) *model.Tables {
	t := model.NewTables()
	for i := range services {
		s := model.BackendSet{ID: model.SetID(i + 1), Root: model.SetID(i + 1), SetKey: model.SetKey{
			Service: model.ServicePort{Namespace: "shop", Name: fmt.Sprintf("s%d", i), Port: 80, Protocol: model.TCP},
			Family:  model.IPv4, Scope: model.ScopeAll,
		}}
		t.Sets[s.ID] = s
		f := model.Frontend{FrontendKey: model.FrontendKey{
			Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: model.TCP,
		}, Set: s.ID, Kind: model.FrontendClusterIP}
		t.Frontends[f.FrontendKey] = f
		for j := range backends {
			id := model.BackendID(1000*(generation%3) + 50*i + j + 1)
			b := model.Backend{ID: id, State: model.BackendActive, BackendKey: model.BackendKey{
				Set: s.ID, Addr: netip.AddrFrom4([4]byte{10, byte(generation), byte(i), byte(j)}), Port: 8080,
			}}
			t.Backends[b.ID] = b
			m := model.Member{Set: s.ID, Backend: b.ID}
			t.Members[m] = m
		}
	}
	return t
}

// hinted is rows in which some sets have hints for nodes.
func hinted(rows *model.Tables, sets ...model.SetID) *model.Tables {
	for _, id := range sets {
		if s, held := rows.Sets[id]; held {
			s.Flags = model.NodeHints
			rows.Sets[id] = s
		}
	}
	return rows
}

// parts is what node a adds to a shop: its own parts of some sets, with a backend each.
func parts(shop *model.Tables, roots ...model.SetID) *model.Tables {
	t := model.NewTables()
	for _, id := range roots {
		s, held := shop.Sets[id]
		if !held {
			continue
		}
		s.ID, s.Scope, s.Place = 100+id, model.ScopeNode, model.PlaceOf("a")
		t.Sets[s.ID] = s
		v := model.View{ViewKey: model.ViewKey{Set: id, Scope: model.ScopeNode}, Target: s.ID}
		t.Views[v.ViewKey] = v
		b := model.Backend{ID: model.BackendID(9000 + id), State: model.BackendActive, BackendKey: model.BackendKey{
			Set: id, Addr: netip.AddrFrom4([4]byte{10, 200, 0, byte(id)}), Port: 8080, Place: s.Place,
		}}
		t.Backends[b.ID] = b
		m := model.Member{Set: s.ID, Backend: b.ID}
		t.Members[m] = m
	}
	return t
}

func pods(names ...string) *model.Tables {
	t := model.NewTables()
	for i, name := range names {
		e := model.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), Pod: "shop/" + name}
		t.Endpoints[e.Addr] = e
	}
	return t
}

func memory() *maps.Memory { return maps.NewMemory([abi.MapCount]uint32{}) }
