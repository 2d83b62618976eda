// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// spread is a policy with so many ports that are no range, from different clients.
func spread(name, role string, first, ports int) *schemas.Fact {
	r := &schemas.PolicyRule{Action: 1, Peers: pods(&schemas.PodPeer{Pods: labelled("role", role)})}
	for i := range ports {
		r.Ports = append(r.Ports, &schemas.PolicyPort{Protocol: 6, Port: uint32(first + 2*i)})
	}
	return fact(state.KindNetworkPolicy, "x", name, &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
		Pods: labelled("app", "server"), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{r},
	}})
}

func blocks(n int) *schemas.Fact {
	r := &schemas.PolicyRule{Action: 1, AnyPort: true}
	for i := range n {
		r.Peers = append(r.Peers, &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{Cidr: fmt.Sprintf("192.0.2.%d/32", i)}}})
	}
	return fact(state.KindNetworkPolicy, "x", "big", &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
		Pods: labelled("app", "server"), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{r},
	}})
}

// crowd is a policy that names so many peers by selector.
func crowd(n int) *schemas.Fact {
	r := &schemas.PolicyRule{Action: 1, AnyPort: true}
	for i := range n {
		r.Peers = append(r.Peers, pods(&schemas.PodPeer{Pods: labelled("role", fmt.Sprint(i))})...)
	}
	return fact(state.KindNetworkPolicy, "x", "big", &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
		Pods: labelled("app", "server"), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{r},
	}})
}

// TestWhatExceedsALimitCloses brings a policy that is too big: its pods pass nothing, it is named, and all is as before
// once it goes.
//
// Policy row 9: what doesn't fit is refused as a whole and named, its pods fail closed, others are untouched.
func TestWhatExceedsALimitCloses(t *testing.T) {
	for _, test := range []struct {
		name string
		fact *schemas.Fact
		want string
	}{
		{"combinations", spread("big", "boss", 1000, 20), "20 combinations"},
		{"peers", crowd(5), "5 peers by selector"},
		{"blocks", blocks(9), "9 blocks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := village(t, 3)
			w.engine = New(Limits{Combinations: 16, Peers: 4, Blocks: 8})
			w.tables = w.engine.Load(w.db.Snapshot(), w.tables)
			before := renamed(w.tables)
			w.follow(t, test.fact)
			n1 := w.tables["n1"]
			set := n1.Endpoints[addresses[0]].Ingress
			for _, addr := range addresses {
				if got := read(n1, set, addr, model.TCP, 80); got != model.ActionClosed {
					t.Errorf("from %s it is %s", addr, got)
				}
			}
			if got := w.tables["n2"].Endpoints; len(got) != 3 {
				t.Errorf("other pods are touched: %v", got)
			}
			aside := w.engine.SetAside()
			if len(aside) != 1 || aside[0].Object.GetName() != "big" || !strings.Contains(aside[0].Reason, test.want) {
				t.Errorf("set aside: %v", aside)
			}
			w.follow(t, fact(state.KindNetworkPolicy, "x", "big", nil))
			if after := renamed(w.tables); !maps.Equal(before, after) || len(w.engine.SetAside()) != 0 {
				t.Errorf("rows are not what they were: %v, were %v", after, before)
			}
		})
	}
}

// TestTooManyPortsTogetherClose lets two policies, each within the limits, be too many ports for one identity: that one
// passes nothing, all others are as they were.
func TestTooManyPortsTogetherClose(t *testing.T) {
	w := newWorld()
	w.engine = New(Limits{Ports: 16})
	w.follow(t, podOn("n1", "server", "10.0.0.1", map[string]string{"app": "server"}),
		podOn("n2", "both", "10.0.1.1", map[string]string{"role": "boss"}), podOn("n2", "other", "10.0.1.2", nil),
		spread("p", "boss", 1000, 10))
	if got := w.ask("10.0.1.1", 1000); got != model.ActionAllow || len(w.engine.SetAside()) != 0 {
		t.Fatalf("within the limits it is %s", got)
	}
	w.follow(t, spread("q", "boss", 2000, 10))
	if got := w.ask("10.0.1.1", 1000); got != model.ActionClosed {
		t.Errorf("the one with too many ports is %s", got)
	}
	if got := w.ask("10.0.1.2", 1000); got != model.ActionIsolate {
		t.Errorf("another one is %s", got)
	}
	if got := len(w.engine.SetAside()); got != 2 {
		t.Errorf("%d policies are set aside, want both", got)
	}
	w.follow(t, podOn("n2", "both", "10.0.1.1", nil))
	if got := len(w.engine.SetAside()); got != 0 {
		t.Errorf("%d policies are set aside, but nobody has too many ports", got)
	}
}

// ask reads what the server says to an address.
func (w *world) ask(from string, port uint16) model.Action {
	n1 := w.tables["n1"]
	var peer model.Action
	for _, addr := range addresses {
		if addr.String() == from {
			peer = read(n1, n1.Endpoints[addresses[0]].Ingress, addr, model.TCP, port)
		}
	}
	return peer
}
