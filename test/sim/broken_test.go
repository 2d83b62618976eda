// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	programmer "github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// A checker that can't fail says nothing: each is shown a cluster that breaks the rule it is for.
func TestEveryCheckerFindsWhatItIsFor(t *testing.T) {
	for _, broken := range []struct {
		rule   string // as problems begin
		how    string
		breaks func(*cluster)
	}{
		{"converged", "a node hears nothing any more", func(c *cluster) { c.nodes[1].mangle = deaf }},
		{"converged", "an edit of a map is never looked for", func(c *cluster) { c.atHealing(func() { c.nodes[1].blind() }) }},
		{"committed", "a node takes rows that no compiler committed", func(c *cluster) { c.nodes[1].mangle = c.nodes[1].forged }},
		{"monotonic", "a node goes back to an older position", func(c *cluster) { c.atHealing(func() { c.nodes[1].goBack() }) }},
		{"ids", "compilers forget quarantine", func(c *cluster) { c.withoutQuarantine() }},
		{"reader", "backends are written after what points at them", func(c *cluster) { c.nodes[0].backendsLate() }},
		{"state", "an object that is there is said to be gone", func(c *cluster) { c.atHealing(c.bury) }},
		{"committed", "nodes believe what nobody has sealed", func(c *cluster) { c.gullible() }},
		{"log", "a delta says another digest than it leads to", func(c *cluster) { c.atHealing(c.misdigest) }},
		{"lockstep", "one compiler has other settings", func(c *cluster) { c.compilers[1].options.Settings.Policy.Combinations = 1 }},
	} {
		t.Run(broken.how, func(t *testing.T) {
			for seed := range uint64(10) {
				c := newCluster(seed*witnessEvery*sealedEvery, nil) // is watched and sealed
				c.calm = true
				broken.breaks(c)
				c.live()
				if slices.ContainsFunc(c.problems, func(p string) bool { return strings.Contains(p, broken.rule+":") }) {
					return
				}
			}
			t.Errorf("no seed in ten showed it")
		})
	}
}

// A calm cluster has no problems, else those above prove nothing.
func TestACalmClusterHasNoProblems(t *testing.T) {
	for seed := range uint64(8) {
		c := newCluster(seed, nil)
		c.calm = true
		c.live()
		report(t, c)
	}
}

func (c *cluster) atHealing(run func()) { c.at(begin.Add(settling+troubled), run) }

// deaf hears nothing of the bus after a while.
func deaf(in core.Input) core.Input {
	switch in := in.(type) {
	case core.Delta:
		if in.To > 20 {
			return core.Tick{}
		}
	case core.Branches, core.Heartbeat:
		return core.Tick{}
	}
	return in
}

// forged has a node take deltas whose rows are not those that the log has, with a digest that fits.
func (n *node) forged(in core.Input) core.Input {
	d, ok := in.(core.Delta)
	if !ok || len(d.Change.Put.Backends) == 0 || n.driver.Core.State() == nil {
		return in
	}
	state := n.driver.Core.State()
	d.Change.Put.Backends = slices.Clone(d.Change.Put.Backends)
	d.Change.Put.Backends[0].Port++
	d.DigestAfter = state.Tables(d.Layer.Kind).Clone().Apply(&d.Change, state.Digest(d.Layer.Kind))
	return d
}

// blind has a node see its maps as they were before someone deletes a frontend.
func (n *node) blind() {
	seen := programmer.NewMemory([abi.MapCount]uint32{})
	var first []programmer.Write
	for m := range abi.MapCount {
		_ = programmer.Dump(n.memory, m, func(key, value []byte) error { // memory can be read
			w := programmer.Write{Map: m, Key: slices.Clone(key), Value: slices.Clone(value)}
			if m == abi.Frontends {
				first = append(first, programmer.Write{Map: m, Key: w.Key})
			}
			return seen.Write([]programmer.Write{w})
		})
	}
	_ = n.memory.Write(first) // its own keys
	for _, l := range n.layers {
		p, _ := n.memory.Position(l.Kind)
		_ = seen.SetPosition(l.Kind, p)
	}
	n.faulty.Maps = seen
}

// goBack records an older position than the node has.
func (n *node) goBack() {
	p, _ := n.memory.Position(model.LayerCluster)
	p.Revision--
	_ = n.memory.SetPosition(model.LayerCluster, p)
	n.stepped()
}

func (c *cluster) withoutQuarantine() {
	for _, co := range c.compilers {
		co.options.Quarantine = time.Millisecond
	}
}

// late keeps puts of backends back until the grace period.
type late struct {
	programmer.Maps
	held []programmer.Write
}

func (l *late) Write(writes []programmer.Write) error {
	if writes[0].Map == abi.Backends && writes[0].Value != nil {
		l.held = append(l.held, writes...)
		return nil
	}
	return l.Maps.Write(writes)
}

func (l *late) Grace() error {
	if err := l.Maps.Write(l.held); err != nil {
		return err
	}
	l.held = nil
	return l.Maps.Grace()
}

func (n *node) backendsLate() { n.faulty.Maps = &late{Maps: n.faulty.Maps} }

// bury says in STATE that a Service is gone that is there.
func (c *cluster) bury() {
	for _, key := range c.api.sorted(convert.KindService) {
		newest := c.state.newest(schemas.SubjectStateEpoch)
		data := marshal(&schemas.Fact{Object: &schemas.ObjectRef{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name}})
		if _, err := c.state.store(schemas.SubjectStateEpoch, newest.sequence, []record{{subject: schemas.StateSubject(key.Kind, key.Namespace, key.Name), data: data}}); err != nil {
			panic(err)
		}
	}
}

// gullible has nodes take the seals off messages without looking at them, while someone forges.
func (c *cluster) gullible() {
	if c.seals.trust == nil {
		return
	}
	for _, n := range c.nodes {
		n.seals = &seals{}
	}
	f := &faults{cluster: c}
	for at := settling; at < settling+troubled; at += time.Second {
		c.at(begin.Add(at), func() { c.bus.deliver(&process{world: c.world, name: "forger", up: true}, f.fitting()) })
	}
}

// misdigest stores a delta that leads elsewhere than it says.
func (c *cluster) misdigest() {
	at := c.checks.log.at[model.ClusterLayer]
	newest := c.delta.newest(schemas.SubjectEpoch)
	messages, err := wire.EncodeDelta(model.Delta{
		Layer: model.ClusterLayer, Epoch: at.Epoch, From: at.Revision, To: at.Revision + 1, DigestAfter: model.Digest{1, 2}, Committed: c.now,
	}, bus.MaxBatchBytes)
	if err != nil {
		panic(err)
	}
	if _, err := c.delta.store(schemas.SubjectEpoch, newest.sequence, []record{{subject: schemas.DeltaSubject("cluster"), data: messages[0]}}); err != nil {
		panic(err)
	}
}
