// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/fleet"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// leastSetAside is how many objects that are set aside a status names that would be too large for the bus.
const leastSetAside = 100

// maxLacking bounds the nodes that an answer names of those that lack a revision.
const maxLacking = 100

// wanted is where nodes should be.
func (c *Core) wanted() fleet.Wanted {
	return fleet.Wanted{Position: c.Position, Since: c.since}
}

// since returns when what a layer got after a revision was committed. What is being appended counts as committed when it
// was compiled.
func (c *Core) since(l model.Layer, after model.Revision) time.Time {
	at := c.recent.committed(l, after)
	if held := c.layers[l]; at.IsZero() && held != nil && held.at.Revision > c.last.revision {
		return held.changed
	}
	return at
}

// Standings counts the nodes by how they stand.
func (c *Core) Standings(now time.Time) map[fleet.Standing]int {
	return c.fleet.Counts(c.wanted(), now)
}

// Latency returns quantiles of the last deltas on all nodes, from trigger to kernel.
func (c *Core) Latency() (p50, p99 time.Duration) { return c.fleet.Latency() }

// Streams takes in what is wrong with the streams of the bus, for the next Status.
func (c *Core) Streams(faults []*schemas.Fault) { c.streams = faults }

// Status answers how the cluster stands: to a StatusRequest with a revision, who lacks it. One that can't be read asks for
// everything.
func (c *Core) Status(now time.Time, to any, data []byte) Output {
	request := &schemas.StatusRequest{}
	if err := wire.Unmarshal(data, request); err != nil {
		request = nil
	}
	m := &schemas.Status{
		Epoch: uint64(c.epoch), Revision: uint64(c.last.revision), Committed: timestamp(c.last.at),
		Leader: c.o.Holder, StateSequence: c.done, StateEpoch: c.stateEpoch, ChecksSeals: c.o.ChecksSeals, Hold: c.Hold(),
		Forwarding: cmp.Or(c.o.Settings.Forwarding, state.ForwardTunnel).String(),
	}
	for standing, n := range c.Standings(now) {
		m.NodesTotal += uint64(n)
		switch standing {
		case fleet.Converged:
			m.NodesConverged = uint64(n)
		case fleet.Updating:
			m.NodesUpdating = uint64(n)
		case fleet.Lost:
			m.NodesLost = uint64(n)
		}
	}
	if revision := request.GetRevision(); revision > 0 {
		c.tellLacking(m, model.Revision(revision), now)
	} else {
		c.tellAll(m, now)
	}
	c.fit(m)
	return Output{Answers: []Answer{one(to, m)}}
}

// tellLacking adds who lacks a revision.
func (c *Core) tellLacking(m *schemas.Status, revision model.Revision, now time.Time) {
	lacking := c.fleet.Lacking(revision, c.wanted(), now)
	m.NodesLacking = uint64(len(lacking))
	for _, name := range lacking[:min(len(lacking), maxLacking)] {
		node := nodeStatus(c.fleet.Of(name, c.wanted(), now))
		m.Nodes = append(m.Nodes, brief(node))
	}
}

func (c *Core) tellAll(m *schemas.Status, now time.Time) {
	m.Causes, m.Cluster = c.last.causes, c.db.Snapshot().Cluster()
	m.Rows, m.SetAside, m.Streams = uint64(c.Rows()), c.allAside(), c.streams
	if p50, p99 := c.fleet.Latency(); p50 > 0 {
		m.LatencyP50, m.LatencyP99 = durationpb.New(p50), durationpb.New(p99)
	}
	fullest := map[string]*schemas.FullestMap{}
	m.Drops = map[string]uint64{}
	for _, p := range c.fleet.Progress(c.wanted(), now) {
		m.Nodes = append(m.Nodes, nodeStatus(p))
		for reason, n := range p.Report.GetDrops() {
			m.Drops[reason] += n
		}
		for _, use := range p.Report.GetMaps() {
			most := fullest[use.GetName()].GetUse()
			if most == nil || use.GetEntries()*most.GetCapacity() > most.GetEntries()*use.GetCapacity() {
				fullest[use.GetName()] = &schemas.FullestMap{Node: p.Node, Use: use}
			}
		}
	}
	for _, most := range fullest {
		m.Maps = append(m.Maps, most)
	}
	slices.SortFunc(m.Maps, func(a, b *schemas.FullestMap) int { return cmp.Compare(a.GetUse().GetName(), b.GetUse().GetName()) })
}

func nodeStatus(p fleet.Progress) *schemas.NodeStatus {
	node := &schemas.NodeStatus{
		Node: p.Node, Applied: p.Report, Behind: uint64(p.Behind), Reason: p.Reason, Drifted: p.Drifted,
		Converged: p.Standing == fleet.Converged, Updating: p.Standing == fleet.Updating, Lost: p.Standing == fleet.Lost,
	}
	if !p.Since.IsZero() {
		node.LackingSince = timestamp(p.Since)
	}
	if p.P50 > 0 {
		node.LatencyP50, node.LatencyP99 = durationpb.New(p.P50), durationpb.New(p.P99)
	}
	return node
}

// brief leaves of a node's report what is wrong and when it was sent.
func brief(n *schemas.NodeStatus) *schemas.NodeStatus {
	if a := n.GetApplied(); a != nil {
		n.Applied = &schemas.Applied{
			Node: a.GetNode(), Faults: a.GetFaults(), Sent: a.GetSent(), MapsKind: a.GetMapsKind(), ChecksSeals: a.GetChecksSeals(),
			External: common(a.GetExternal()),
		}
	}
	return n
}

// common leaves of how a node passes on what clients send what must be the same on all: only together do nodes show
// who differs.
func common(e *schemas.External) *schemas.External {
	if e == nil {
		return nil
	}
	return &schemas.External{Device: e.GetDevice(), Port: e.GetPort(), Vni: e.GetVni(), MaglevSlots: e.GetMaglevSlots(), Masqueraded: e.GetMasqueraded()}
}

// fit makes a status one message. What is wrong is told first, and how many nodes there are in any case: in large clusters
// nodes are told without most of their reports, then those that are converged not at all.
func (c *Core) fit(m *schemas.Status) {
	fits := func() bool { return proto.Size(m) <= c.o.MaxMessage }
	if fits() {
		return
	}
	for _, n := range m.GetNodes() {
		if n.GetConverged() {
			n.Applied = &schemas.Applied{External: common(n.GetApplied().GetExternal())}
		} else {
			brief(n)
		}
	}
	if fits() {
		return
	}
	m.SetAside = m.GetSetAside()[:min(len(m.GetSetAside()), leastSetAside)]
	slices.SortStableFunc(m.Nodes, func(a, b *schemas.NodeStatus) int { return cmp.Compare(urgency(a), urgency(b)) })
	for len(m.GetNodes()) > 0 && !fits() {
		m.Nodes = m.GetNodes()[:len(m.GetNodes())*3/4]
	}
}

// urgency orders nodes by how much they have to be told: those that are behind before all others.
func urgency(n *schemas.NodeStatus) int {
	switch {
	case n.GetConverged():
		return 3
	case n.GetUpdating():
		return 2
	case n.GetLost():
		return 1
	}
	return 0
}
