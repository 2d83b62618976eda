// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// dropped is a TCP packet or connect to 10.96.0.1:80 that went no further.
func dropped(source string, edit func(*abi.DropEvent)) *abi.DropEvent {
	e := &abi.DropEvent{
		Source: netip.MustParseAddr(source).As16(), Destination: netip.MustParseAddr("10.96.0.1").As16(),
		SourcePort: abi.Port(1234), DestinationPort: abi.Port(80), Protocol: 6, Reason: uint8(model.ReasonNoBackend), Via: 1,
	}
	if edit != nil {
		edit(e)
	}
	return e
}

// isolated is one that a pod's policies don't allow.
func isolated(source string, rule uint64) *abi.DropEvent {
	return dropped(source, func(e *abi.DropEvent) {
		e.Destination, e.Reason, e.Via, e.Direction, e.RuleSet, e.Rule = netip.MustParseAddr("10.1.0.2").As16(), uint8(model.ReasonIsolated), 2, 1, 5, rule
	})
}

// shop is what a node's layer says of the pods and policies that tests drop packets of.
func shop() names {
	state := plan.Empty()
	rows := state.Tables(model.LayerNode)
	for addr, pod := range map[string]string{"10.1.0.1": "shop/web", "10.1.0.2": "shop/cart"} {
		a := netip.MustParseAddr(addr)
		rows.Endpoints[a] = model.Endpoint{Addr: a, Pod: pod}
	}
	rows.RuleSets[5] = model.RuleSet{ID: 5, Direction: model.Ingress, Policies: "ClusterNetworkPolicy no-lab, NetworkPolicy shop/cart"}
	rows.Rules[6] = model.Rule{ID: 6, Policy: model.PolicyName{Kind: model.AdminPolicy, Name: "no-lab"}, Direction: model.Ingress, Index: 2}
	return names{state, 41}
}

func TestDropsAreToldNotTooOften(t *testing.T) {
	var limit dropLimit
	now := time.Unix(1, 0)
	key := func(port uint16) dropKey {
		return dropKeyOf(dropped("10.1.0.5", func(e *abi.DropEvent) { e.DestinationPort = abi.Port(port) }))
	}
	if !limit.allow(key(1), now) || limit.allow(key(1), now.Add(time.Second)) || !limit.allow(key(1), now.Add(dropAgain)) {
		t.Error("the same destination: want it told at once and after a while, not between")
	}
	now = now.Add(time.Hour)
	told := 0
	for port := range uint16(1000) {
		if limit.allow(key(port), now) {
			told++
		}
	}
	if told != dropsPerSecond {
		t.Errorf("told of %d drops within a second, want %d", told, dropsPerSecond)
	}
	now = now.Add(time.Hour)
	if !limit.allow(dropKeyOf(isolated("10.1.0.5", 0)), now) || !limit.allow(dropKeyOf(isolated("10.1.0.6", 0)), now) {
		t.Error("of policy: want drops of each source told")
	}
}

// Policy row 11: a drop is told with the pods, the policies, the rule that decided and the revision.
// Promise P6: a drop is told with the reason in words, the Service or pods it was about, and the rule that denied it.
func TestDropsAreToldByName(t *testing.T) {
	for _, c := range []struct {
		name, want string
		event      *abi.DropEvent
	}{
		{
			"of no Service", "TCP to 10.96.0.1:80 (no Service), seen at the socket: the Service has no backend that takes new connections; the client is refused at once",
			dropped("10.1.0.5", nil),
		},
		{
			"by no rule", "TCP to 10.1.0.2:80 (shop/cart, from shop/web), seen at the packet: NetworkPolicies select the pod and none of their rules allows it: " +
				"ClusterNetworkPolicy no-lab, NetworkPolicy shop/cart",
			isolated("10.1.0.1", 0),
		},
		{
			"by a rule", "TCP to 10.1.0.2:80 (shop/cart, from 10.1.0.5), seen at the packet: NetworkPolicies select the pod and none of their rules allows it: " +
				"ClusterNetworkPolicy no-lab ingress[2]",
			isolated("10.1.0.5", 6),
		},
	} {
		d := shop().drop(c.event)
		e := dropEvent(d, model.DropReason(c.event.Reason))
		if e.GetText() != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, e.GetText(), c.want)
		}
		if d.GetReason() != model.DropReason(c.event.Reason).String() || d.GetSourcePort() != 1234 || d.GetRevision() != 41 {
			t.Errorf("%s: %v", c.name, d)
		}
	}
	d := shop().drop(isolated("10.1.0.1", 6))
	if d.GetSourcePod() != "shop/web" || d.GetDestinationPod() != "shop/cart" || d.GetDirection() != schemas.Direction_DIRECTION_INGRESS ||
		d.GetRuleSet() != 5 || d.GetIpProtocol() != 6 {
		t.Errorf("got %v", d)
	}
}

func TestRecentDropsAreCountedAndBounded(t *testing.T) {
	var r recentDrops
	begin := time.Unix(100, 0)
	all := func(*recentDrop) bool { return true }
	for i := range 3 * recentMost {
		r.add(dropped("10.1.0.5", func(e *abi.DropEvent) { e.DestinationPort = abi.Port(uint16(i)) }), begin.Add(time.Duration(i)*time.Second))
		r.add(dropped("10.1.0.6", func(e *abi.DropEvent) { e.SourcePort = abi.Port(uint16(i)) }), begin.Add(time.Duration(i)*time.Second))
	}
	got := r.list(2*recentMost, all)
	if len(got) != recentMost || len(r.at) != recentMost {
		t.Fatalf("%d drops are remembered, %d by key, want %d", len(got), len(r.at), recentMost)
	}
	if got[0].count != 3*recentMost || !got[0].first.Equal(begin) || abi.HostPort(got[0].event.SourcePort) != 3*recentMost-1 {
		t.Errorf("the one that came again and again: %+v", got[0])
	}
	if got[1].count != 1 || got[1].latest.Before(got[2].latest) {
		t.Errorf("not the latest first: %+v", got[1:3])
	}
	if got := r.list(5, func(d *recentDrop) bool { return d.count == 1 }); len(got) != 5 {
		t.Errorf("%d drops, want 5", len(got))
	}
}
