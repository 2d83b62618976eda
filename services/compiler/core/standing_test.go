// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// crowd has so many nodes, each with a pod.
func crowd(t *testing.T, nodes int) *world {
	t.Helper()
	w := shop(t, Options{}, 3, 1)
	var facts []*schemas.Fact
	for i := range nodes {
		node := fmt.Sprintf("node-%04d", i)
		facts = append(facts, nodeFact(node, ""), podFact("pod-"+node, node, fmt.Sprintf("10.201.%d.%d", i>>8, i&255)))
	}
	w.facts(facts...)
	w.pass(20 * time.Second)
	return w
}

// reported has nodes say that they hold what they should, with as much in a report as a real node says.
func (w *world) reported(from, to int) {
	w.t.Helper()
	for i := from; i < to; i++ {
		node := fmt.Sprintf("node-%04d", i)
		report := &schemas.Applied{
			Node: node, Sent: timestamp(w.now), MapsKind: "kernel", Drops: map[string]uint64{"no_backend": 2},
			Positions: wire.PositionsToProto(map[model.Layer]model.Position{
				model.ClusterLayer: w.core.Position(model.ClusterLayer), model.NodeLayer(node): w.core.Position(model.NodeLayer(node)),
			}),
			Deltas: []*schemas.AppliedDelta{{Latency: durationpb.New(5 * time.Millisecond)}},
			External: &schemas.External{
				Device: "deltaplane0", Port: 8475, Vni: 0xde17, MaglevSlots: 4093,
				Uplinks: []*schemas.Uplink{{Interface: "eth0", Xdp: "off", Reason: "its driver has no XDP"}},
			},
		}
		for m := range 19 {
			report.Maps = append(report.Maps, &schemas.MapUse{Name: fmt.Sprint("map_number_", m), Entries: uint64(i), Capacity: 100_000})
		}
		if _, err := w.core.Applied(w.now, node, marshal(report)); err != nil {
			w.t.Fatalf("%v", err)
		}
	}
}

func (w *world) status(revision uint64) *schemas.Status {
	w.t.Helper()
	w.answers = nil
	w.do(w.core.Status(w.now, nil, marshal(&schemas.StatusRequest{Revision: revision})))
	var m schemas.Status
	for data := range w.answers[0].Messages() {
		if err := proto.Unmarshal(data, &m); err != nil || len(data) > schemas.MaxMessageBytes {
			w.t.Fatalf("%d bytes, %v", len(data), err)
		}
	}
	return &m
}

// Promise P5: of 5,000 nodes the two that lack a revision are named in the first answer 2 s after it was committed.
func TestStatusOfManyNodesNamesThoseThatAreBehind(t *testing.T) {
	const nodes = 5000
	w := crowd(t, nodes)
	w.reported(0, nodes)
	if m := w.status(0); m.GetNodesConverged() != nodes || m.GetNodesTotal() != nodes || len(m.GetMaps()) != 19 ||
		m.GetMaps()[0].GetNode() != "node-4999" || m.GetDrops()["no_backend"] != 2*nodes || m.GetLatencyP99().AsDuration() < 5*time.Millisecond {
		t.Fatalf("%d of %d nodes converged, fullest %v, drops %v, p99 %s", m.GetNodesConverged(), m.GetNodesTotal(), m.GetMaps(), m.GetDrops(),
			m.GetLatencyP99().AsDuration())
	}
	compared := 0
	for _, n := range w.status(0).GetNodes() {
		if n.GetApplied().GetExternal().GetVni() == 0xde17 {
			compared++
		}
	}
	if compared != nodes {
		t.Errorf("%d of %d nodes can be compared with each other", compared, nodes)
	}
	w.facts(sliceFact(1, 5, 2, w.now))
	w.pass(time.Second)
	if m := w.status(0); m.GetNodesUpdating() != nodes || len(m.GetNodes()) == 0 {
		t.Errorf("after a second %d nodes are updating (%d named), want all", m.GetNodesUpdating(), len(m.GetNodes()))
	}
	w.reported(1, nodes-1)
	w.pass(1500 * time.Millisecond)
	m := w.status(0)
	var behind []string
	for _, n := range m.GetNodes() {
		if !n.GetConverged() {
			behind = append(behind, fmt.Sprintf("%s -%d %v", n.GetNode(), n.GetBehind(), n.GetUpdating()))
		}
	}
	if got := strings.Join(behind, " "); got != "node-0000 -1 false node-4999 -1 false" || m.GetNodesConverged() != nodes-2 {
		t.Errorf("%s are behind, %d converged", got, m.GetNodesConverged())
	}
}

func TestWhoLacksARevisionIsCountedAndSomeAreNamed(t *testing.T) {
	const nodes = 300
	w := crowd(t, nodes)
	w.reported(0, nodes)
	before := w.status(0).GetRevision()
	w.facts(sliceFact(1, 5, 2, w.now))
	w.pass(time.Second)
	after := w.status(0).GetRevision()
	w.reported(0, 50)
	for revision, want := range map[uint64]uint64{before: 0, after: nodes - 50, after + 10: nodes - 50} {
		m := w.status(revision)
		if m.GetNodesLacking() != want || len(m.GetNodes()) != int(min(want, maxLacking)) {
			t.Errorf("%d nodes lack revision %d, %d are named; want %d", m.GetNodesLacking(), revision, len(m.GetNodes()), want)
		}
		if len(m.GetNodes()) > 0 && (m.GetNodes()[0].GetReason() == "" || len(m.GetNodes()[0].GetApplied().GetMaps()) != 0) {
			t.Errorf("the first of them: %v", m.GetNodes()[0])
		}
	}
}

// Fault 1: however many nodes' layers changed with the last delta before silence, one that missed its own is told within
// seconds, since those that said they have it are not.
func TestHeartbeatNamesLayersThatNoNodeHasConfirmed(t *testing.T) {
	const nodes = 300
	w := crowd(t, nodes)
	var facts []*schemas.Fact
	for i := range nodes {
		node := fmt.Sprintf("node-%04d", i)
		facts = append(facts, podFact("more-"+node, node, fmt.Sprintf("10.202.%d.%d", i>>8, i&255)))
	}
	w.facts(facts...)
	w.pass(500 * time.Millisecond)
	w.reported(0, 137)
	w.reported(138, nodes)
	w.forget()
	w.pass(time.Second)
	beats := w.beats()
	missed := model.NodeLayer("node-0137")
	if got := beats[len(beats)-1].Positions; len(got) != 2 || got[missed] != w.core.Position(missed) {
		t.Errorf("the heartbeat names %v, want the cluster layer and %s", got, missed)
	}
}

func TestHeartbeatNamesUnconfirmedLayersInTurn(t *testing.T) {
	const nodes = 3*maxPositions - 1
	w := crowd(t, 2)
	var facts []*schemas.Fact
	for i := range nodes {
		node := fmt.Sprintf("new-%04d", i)
		facts = append(facts, podFact("pod-"+node, node, fmt.Sprintf("10.203.%d.%d", i>>8, i&255)))
	}
	w.forget()
	w.facts(facts...)
	w.pass(4 * time.Second)
	named := map[model.Layer]bool{}
	for _, b := range w.beats() {
		if len(b.Positions) > maxPositions+1 {
			t.Errorf("a heartbeat names %d layers", len(b.Positions))
		}
		for l := range b.Positions {
			named[l] = true
		}
	}
	if len(named) != nodes+1 {
		t.Errorf("four heartbeats name %d layers, want all %d", len(named), nodes+1)
	}
	for _, m := range w.published {
		if m.Subject == schemas.SubjectHeartbeat && len(m.Data) > 1024 {
			t.Errorf("a heartbeat of %d bytes", len(m.Data))
		}
	}
}
