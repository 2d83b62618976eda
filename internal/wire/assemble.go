// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
)

// maxOpen bounds the deltas or snapshots that an assembler puts together at the same time, one a layer. The one that
// was begun first is given up for a new one.
const maxOpen = 64

// Assembler puts the parts of Deltas together, in whatever order they come and however often. It holds one unfinished
// delta a layer: the first part of another one for the layer ends it. The zero value is ready.
type Assembler struct{ open assembly[DeltaPart] }

// Add takes one part and returns the delta once all of its parts are there. Before that complete is false. An error
// says that the parts contradict each other or that the delta has too many rows; then it is forgotten.
func (a *Assembler) Add(p DeltaPart) (d model.Delta, complete bool, err error) {
	parts, err := a.open.add(p, partOf{
		layer: p.Layer, epoch: p.Epoch, from: p.From, to: p.To, digest: p.DigestAfter, parts: p.Parts,
	}, p.Part, p.Change.Put.Len()+p.Change.Remove.Len())
	if err != nil || parts == nil {
		return model.Delta{}, false, err
	}
	d = parts[0].Delta
	for _, p := range parts[1:] {
		appendKeys(&d.Change.Remove, &p.Change.Remove)
		d.Change.Put.Append(&p.Change.Put)
	}
	if err := checkChange(&d.Change); err != nil {
		return model.Delta{}, false, foreign("delta of layer %s to revision %d: %w", d.Layer, d.To, err)
	}
	return d, true, nil
}

// SnapshotAssembler puts the chunks of Snapshots together as Assembler does the parts of Deltas. The zero value is
// ready.
type SnapshotAssembler struct{ open assembly[SnapshotPart] }

// Add takes one chunk and returns the snapshot once all of its chunks are there.
func (a *SnapshotAssembler) Add(p SnapshotPart) (s model.Snapshot, complete bool, err error) {
	parts, err := a.open.add(p, partOf{
		layer: p.Layer, epoch: p.Position.Epoch, to: p.Position.Revision, digest: p.Position.Digest, parts: p.Parts,
	}, p.Part, p.Rows.Len())
	if err != nil || parts == nil {
		return model.Snapshot{}, false, err
	}
	s = parts[0].Snapshot
	for _, p := range parts[1:] {
		s.Rows.Append(&p.Rows)
	}
	if err := checkChange(&model.Change{Put: s.Rows}); err != nil {
		return model.Snapshot{}, false, foreign("snapshot of layer %s at revision %d: %w", s.Layer, s.Position.Revision, err)
	}
	return s, true, nil
}

// partOf is what all parts of one delta or snapshot have in common.
type partOf struct {
	layer    model.Layer
	epoch    model.Epoch
	from, to model.Revision
	digest   model.Digest
	parts    uint32
}

// assembly is what has come so far, by layer.
type assembly[P any] struct {
	layers map[model.Layer]*unfinished[P]
	begun  uint64 // how many ever were: the order in which they are given up
}

type unfinished[P any] struct {
	of      partOf
	number  uint64
	parts   []P
	have    []bool
	missing int
	rows    int
}

// add takes one part; it returns all parts in order once they are there, else nil.
func (a *assembly[P]) add(p P, of partOf, part uint32, rows int) ([]P, error) {
	if of.parts == 1 {
		delete(a.layers, of.layer)
		return []P{p}, nil
	}
	u := a.layers[of.layer]
	if u == nil || u.of != of {
		u = a.begin(of)
	}
	if u.have[part] {
		return nil, nil
	}
	u.parts[part], u.have[part] = p, true
	u.missing--
	if u.rows += rows; u.rows > MaxRows {
		delete(a.layers, of.layer)
		return nil, foreign("parts of layer %s at revision %d hold more than %d rows", of.layer, of.to, MaxRows)
	}
	if u.missing > 0 {
		return nil, nil
	}
	delete(a.layers, of.layer)
	return u.parts, nil
}

func (a *assembly[P]) begin(of partOf) *unfinished[P] {
	if a.layers == nil {
		a.layers = map[model.Layer]*unfinished[P]{}
	}
	if a.layers[of.layer] == nil && len(a.layers) >= maxOpen {
		a.giveUpOldest()
	}
	a.begun++
	u := &unfinished[P]{
		of: of, number: a.begun, parts: make([]P, of.parts), have: make([]bool, of.parts), missing: int(of.parts),
	}
	a.layers[of.layer] = u
	return u
}

func (a *assembly[P]) giveUpOldest() {
	var oldest *unfinished[P]
	for _, u := range a.layers {
		if oldest == nil || u.number < oldest.number {
			oldest = u
		}
	}
	delete(a.layers, oldest.of.layer)
}

func appendKeys(to, from *model.Keys) {
	to.Frontends = append(to.Frontends, from.Frontends...)
	to.Sets = append(to.Sets, from.Sets...)
	to.Backends = append(to.Backends, from.Backends...)
	to.Members = append(to.Members, from.Members...)
	to.Endpoints = append(to.Endpoints, from.Endpoints...)
	to.Views = append(to.Views, from.Views...)
	to.SourceRanges = append(to.SourceRanges, from.SourceRanges...)
	to.Networks = append(to.Networks, from.Networks...)
	to.HealthChecks = append(to.HealthChecks, from.HealthChecks...)
	to.Nodes = append(to.Nodes, from.Nodes...)
	to.Selves = append(to.Selves, from.Selves...)
	to.RuleSets = append(to.RuleSets, from.RuleSets...)
	to.Rules = append(to.Rules, from.Rules...)
	to.PortVerdicts = append(to.PortVerdicts, from.PortVerdicts...)
	to.Verdicts = append(to.Verdicts, from.Verdicts...)
	to.Blocks = append(to.Blocks, from.Blocks...)
	to.Peers = append(to.Peers, from.Peers...)
}

// checkChange says whether a key stands twice: then the change has no one meaning (see model.Change).
func checkChange(c *model.Change) error {
	return first(
		once("frontend", c.Put.Frontends, model.Frontend.Key, c.Remove.Frontends),
		once("set", c.Put.Sets, model.BackendSet.Key, c.Remove.Sets),
		once("backend", c.Put.Backends, model.Backend.Key, c.Remove.Backends),
		once("member", c.Put.Members, model.Member.Key, c.Remove.Members),
		once("endpoint", c.Put.Endpoints, model.Endpoint.Key, c.Remove.Endpoints),
		once("view", c.Put.Views, model.View.Key, c.Remove.Views),
		once("source range", c.Put.SourceRanges, model.SourceRange.Key, c.Remove.SourceRanges),
		once("network", c.Put.Networks, model.Network.Key, c.Remove.Networks),
		once("node", c.Put.Nodes, model.Node.Key, c.Remove.Nodes),
		once("health check", c.Put.HealthChecks, model.HealthCheck.Key, c.Remove.HealthChecks),
		once("self", c.Put.Selves, model.Self.Key, c.Remove.Selves),
		once("rule set", c.Put.RuleSets, model.RuleSet.Key, c.Remove.RuleSets),
		once("rule", c.Put.Rules, model.Rule.Key, c.Remove.Rules),
		once("port verdict", c.Put.PortVerdicts, model.PortVerdict.Key, c.Remove.PortVerdicts),
		once("verdict", c.Put.Verdicts, model.Verdict.Key, c.Remove.Verdicts),
		once("block", c.Put.Blocks, model.Block.Key, c.Remove.Blocks),
		once("peer", c.Put.Peers, model.Peer.Key, c.Remove.Peers),
	)
}

func once[K comparable, R any](what string, put []R, key func(R) K, remove []K) error {
	if len(put)+len(remove) < 2 {
		return nil
	}
	seen := make(map[K]struct{}, len(put)+len(remove))
	for _, r := range put {
		seen[key(r)] = struct{}{}
	}
	for _, k := range remove {
		seen[k] = struct{}{}
	}
	if len(seen) < len(put)+len(remove) {
		return fmt.Errorf("a %s stands there twice", what)
	}
	return nil
}
