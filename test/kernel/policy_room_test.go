// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	stdmaps "maps"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// crowded is a node whose map of verdicts is small.
type crowded struct {
	t      *testing.T
	plane  *bpf.Dataplane
	maps   *maps.Kernel
	state  *plan.State
	limits plan.Capacities
}

func newCrowded(t *testing.T, verdicts uint32) *crowded {
	t.Helper()
	testkit.NeedKernel(t)
	capacities := stdmaps.Clone(small)
	capacities[abi.Verdicts] = verdicts
	plane, err := bpf.Load(bpf.Options{Flows: 4096, Connections: 4096, Capacities: capacities})
	check(t, err)
	t.Cleanup(plane.Close)
	c := &crowded{t: t, plane: plane, state: plan.Empty()}
	c.maps, err = maps.NewKernel(graceful{plane})
	check(t, err)
	uses, err := c.maps.Use()
	check(t, err)
	for _, use := range uses {
		c.limits[use.Map] = int(use.Capacity)
	}
	return c
}

// hold takes the maps to rows, as the programmer does.
func (c *crowded) hold(rows *model.Tables) {
	c.t.Helper()
	change := model.Diff(c.state.Wanted(model.LayerNode), rows)
	p, err := c.state.Apply(c.limits, plan.LayerChange{Kind: model.LayerNode, Change: change})
	check(c.t, err)
	for _, phase := range p.Phases {
		for _, batch := range phase.Batches {
			check(c.t, c.maps.Write(batch))
		}
		if phase.Judge != plan.JudgeAsBefore {
			check(c.t, c.maps.Judge(phase.Judge == plan.JudgeAgain))
		}
	}
}

// Policy row 9: in a map of verdicts that has no room for all policies, those that fit judge as if nothing were wrong, and
// pods of the others get nothing, whatever their policy allows, until there is room.
func TestPodsOfAPolicyThatDoesntFitAreClosed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		const larger model.RuleSetID = 0x9999aaaabbbbcccc
		c := newCrowded(t, 4)
		both := policed()
		court(both, f.pod, ingressSet, map[model.IdentityID]model.Action{0: model.ActionIsolate, 1: model.ActionAllow})
		both.Peers.Put(model.Peer{Addr: bare(f.peer), Identity: 1})
		alone := policed()
		for _, rows := range []*model.Tables{both, alone} {
			court(rows, f.stranger, larger, map[model.IdentityID]model.Action{
				0: model.ActionAllow, 1: model.ActionAllow, 2: model.ActionIsolate, 3: model.ActionAllow,
			})
		}
		alone.Peers.Put(model.Peer{Addr: bare(f.peer), Identity: 1})
		c.hold(both)
		out, _ := c.state.LeftOut()
		if len(out) != 1 || out[0].RuleSet.ID != larger {
			t.Fatalf("left out are %v, want %x alone", out, uint64(larger))
		}
		from := func(source, to, port string) bpf.Verdict {
			return gets(t, c.plane, segment{from: source + ":" + port, to: to + ":80", syn: true}.frame(t))
		}
		want(t, "what the policy that fits allows", from(f.peer, f.pod, "4000"), bpf.Pass)
		want(t, "what it doesn't allow", from(f.node, f.pod, "4001"), bpf.Drop)
		event(t, c.plane)
		want(t, "what the one that doesn't fit allows", from(f.peer, f.stranger, "4002"), bpf.Drop)
		if e := event(t, c.plane); e.Reason != uint8(model.ReasonPolicyClosed) {
			t.Errorf("dropped for reason %d, want %s", e.Reason, model.ReasonPolicyClosed)
		} else if named := c.state.Tables(model.LayerNode).RuleSets[model.RuleSetID(e.RuleSet)]; named.Policies != "NetworkPolicy shop/a" {
			t.Errorf("the drop names rule set %x (%s), want that of NetworkPolicy shop/a", e.RuleSet, named.Policies)
		}
		c.hold(alone)
		want(t, "what it allows once there is room", from(f.peer, f.stranger, "4003"), bpf.Pass)
		c.hold(both)
		want(t, "what was in force before the other came back", from(f.peer, f.stranger, "4004"), bpf.Pass)
		want(t, "what the other allows", from(f.peer, f.pod, "4005"), bpf.Drop)
	})
}

func policed() *model.Tables {
	t := model.NewTables()
	t.Selves[model.SelfKey{}] = model.Self{Policed: true}
	return t
}

// court adds a pod with a rule set that judges what comes to it.
func court(t *model.Tables, pod string, set model.RuleSetID, actions map[model.IdentityID]model.Action) {
	t.RuleSets[set] = model.RuleSet{ID: set, Direction: model.Ingress, Policies: "NetworkPolicy shop/a"}
	t.Endpoints[bare(pod)] = model.Endpoint{Addr: bare(pod), Pod: "shop/web", Incarnation: 1, Ingress: set}
	for identity, action := range actions {
		v := says(set, identity, action, 0)
		t.Verdicts[v.VerdictKey] = v
	}
}
