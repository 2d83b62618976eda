// SPDX-License-Identifier: Apache-2.0

package refmodel

import (
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
)

// The rule sets of the tests.
const (
	closed    model.RuleSetID = iota + 1 // no rows
	blocksWeb                            // identity 7 may, but not by TCP 80
	webOnly                              // everyone may by TCP 80 to 95, and 81 alone is denied
)

// judging returns a node with one pod that these rule sets judge.
func judging(ingress, egress model.RuleSetID, edit func(*model.Tables)) *Node {
	t := tables(model.TCP)
	t.Selves[model.SelfKey{}] = model.Self{Policed: true}
	t.Endpoints[pod.Addr()] = model.Endpoint{Addr: pod.Addr(), Pod: "shop/client", Incarnation: 1, Ingress: ingress, Egress: egress}
	pods := netip.MustParsePrefix("10.244.0.0/16")
	t.Networks[pods] = model.Network{Prefix: pods, Kind: model.NetworkPods}
	verdict := func(set model.RuleSetID, id model.IdentityID, ports model.PortsID, action model.Action, rule model.RuleID) {
		key := model.VerdictKey{RuleSet: set, Identity: id}
		t.Verdicts[key] = model.Verdict{VerdictKey: key, Ports: ports, Action: action, Rule: rule}
	}
	port := func(ports model.PortsID, first uint16, bits uint8, action model.Action, rule model.RuleID) {
		key := model.PortKey{Ports: ports, Protocol: model.TCP, Port: first, Bits: bits}
		t.PortVerdicts[key] = model.PortVerdict{PortKey: key, Action: action, Rule: rule}
	}
	verdict(blocksWeb, 0, 0, model.ActionIsolate, 0)
	verdict(blocksWeb, 7, 1, model.ActionAllow, 71)
	port(1, 80, 16, model.ActionDeny, 72)
	verdict(webOnly, 0, 2, model.ActionIsolate, 0)
	port(2, 80, 12, model.ActionAllow, 73)
	port(2, 81, 16, model.ActionDeny, 74)
	if edit != nil {
		edit(t)
	}
	return node(t).In(Surroundings{Locals: map[netip.Addr]LocalFlags{netip.MustParseAddr("172.20.0.2"): LocalNodePort}})
}

func peer(t *model.Tables, addr netip.Addr, id model.IdentityID) {
	t.Peers.Put(model.Peer{Addr: addr, Identity: id})
}

func block(t *model.Tables, prefix string, id model.IdentityID) {
	p := netip.MustParsePrefix(prefix)
	t.Blocks[p] = model.Block{Prefix: p, Identity: id}
}

// Policy row 2: a block has the addresses of pods and nodes too, and none of the other family.
// Policy row 4: what the node sends, and a pod to itself, is not judged.
func TestJudgeByRows(t *testing.T) {
	to := func(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }
	for _, test := range []struct {
		name      string
		direction model.Direction
		set       model.RuleSetID
		peer      netip.AddrPort
		pod       netip.AddrPort
		edit      func(*model.Tables)
		reason    model.DropReason
		rule      model.RuleID
	}{
		{"no rule set", model.Egress, 0, elsewhere, pod, nil, model.ReasonNone, 0},
		{"a rule set without rows", model.Egress, closed, elsewhere, pod, nil, model.ReasonPolicyClosed, 0},
		{"nobody's rule", model.Egress, blocksWeb, elsewhere, pod, nil, model.ReasonIsolated, 0},
		{"a peer", model.Egress, blocksWeb, elsewhere, pod, func(t *model.Tables) { peer(t, elsewhere.Addr(), 7) }, model.ReasonNone, 71},
		{"a peer's exception", model.Egress, blocksWeb, to("192.0.2.1:80"), pod, func(t *model.Tables) { peer(t, elsewhere.Addr(), 7) }, model.ReasonDenied, 72},
		{"a block", model.Egress, blocksWeb, elsewhere, pod, func(t *model.Tables) { block(t, "192.0.0.0/8", 7) }, model.ReasonNone, 71},
		{"a block with an exception", model.Egress, blocksWeb, elsewhere, pod, func(t *model.Tables) {
			block(t, "192.0.0.0/8", 7)
			block(t, "192.0.2.0/24", 0)
		}, model.ReasonIsolated, 0},
		{"a peer in a block", model.Egress, blocksWeb, elsewhere, pod, func(t *model.Tables) {
			block(t, "192.0.2.0/24", 9)
			peer(t, elsewhere.Addr(), 7)
		}, model.ReasonNone, 71},
		{"all of IPv6", model.Egress, blocksWeb, elsewhere, pod, func(t *model.Tables) { block(t, "::/0", 7) }, model.ReasonIsolated, 0},
		{"a range of ports", model.Egress, webOnly, to("192.0.2.1:95"), pod, nil, model.ReasonNone, 73},
		{"the longest of two", model.Egress, webOnly, to("192.0.2.1:81"), pod, nil, model.ReasonDenied, 74},
		{"behind the range", model.Egress, webOnly, to("192.0.2.1:96"), pod, nil, model.ReasonIsolated, 0},
		{"the pod's own port counts where others begin", model.Ingress, webOnly, to("192.0.2.1:4000"), to("10.244.1.2:80"), nil, model.ReasonNone, 73},
		{"the node comes", model.Ingress, closed, to("172.20.0.2:4000"), pod, nil, model.ReasonNone, 0},
		{"the node is dialled", model.Egress, closed, to("172.20.0.2:80"), pod, nil, model.ReasonPolicyClosed, 0},
		{"the pod itself", model.Egress, closed, to("10.244.1.2:80"), pod, nil, model.ReasonNone, 0},
		{"a pod that isn't known", model.Egress, closed, elsewhere, to("10.244.9.9:4000"), nil, model.ReasonUnknownPod, 0},
		{"what is no pod", model.Egress, closed, elsewhere, to("192.168.1.1:4000"), nil, model.ReasonNone, 0},
		{"without policies", model.Egress, closed, elsewhere, pod, func(t *model.Tables) { clear(t.Selves) }, model.ReasonNone, 0},
	} {
		n := judging(test.set, test.set, test.edit)
		r := n.Judge(test.direction, End{model.TCP, test.pod, test.peer})
		if r.Reason != test.reason || r.Rule != test.rule || r.Direction != test.direction {
			t.Errorf("%s: %+v, want %s by rule %d", test.name, r, test.reason, test.rule)
		}
	}
}

// step is a packet at the pod's interface, and what is wanted of it.
type step struct {
	after  uint32 // seconds after the one before
	from   bool   // by the pod
	flags  string // S, A, F, R; empty for a datagram
	reason model.DropReason
	node   *Node // from now on, nil for the same
}

// Policy row 3: answers pass; a change of policies ends what has begun.
// Trap 12: a SYN from ports used again is judged anew.
// Trap 14: what comes amid a TCP connection that isn't known passes if either end may begin one.
func TestConnections(t *testing.T) {
	const isolated, none = model.ReasonIsolated, model.ReasonNone
	allows := func(t *model.Tables) { peer(t, elsewhere.Addr(), 7) }
	in, out := judging(blocksWeb, closed, allows), judging(closed, blocksWeb, allows)
	nothing := judging(blocksWeb, blocksWeb, nil)
	another := judging(blocksWeb, blocksWeb, func(t *model.Tables) {
		e := t.Endpoints[pod.Addr()]
		e.Incarnation = 2
		t.Endpoints[pod.Addr()] = e
	})
	for name, steps := range map[string][]step{
		"answers pass": {{0, true, "S", none, out}, {0, false, "SA", none, nil}, {100, false, "A", none, nil}},
		"policies change": {
			{0, true, "S", none, out}, {0, false, "SA", none, nil}, {1, true, "A", isolated, nothing}, {1, false, "A", isolated, nil}, {1, true, "A", none, out},
		},
		"a datagram's, too": {{0, true, "", none, out}, {1, false, "", none, nil}, {1, false, "", isolated, nothing}},
		"and may begin anew, once it was silent": {
			{0, true, "", none, out}, {1, false, "", model.ReasonPolicyClosed, in}, {1, true, "", model.ReasonPolicyClosed, nil}, {31, false, "", none, nil}, {1, true, "", none, nil},
		},
		"silent for too long":       {{0, true, "", none, out}, {31, false, "", model.ReasonPolicyClosed, nil}},
		"answered it lasts":         {{0, true, "", none, out}, {1, false, "", none, nil}, {120, false, "", none, nil}},
		"amid a connection":         {{0, false, "A", none, out}, {1, true, "A", none, nil}},
		"amid a denied one":         {{0, false, "A", isolated, nothing}},
		"a SYN the other way":       {{0, true, "S", none, out}, {0, false, "S", model.ReasonPolicyClosed, nil}, {0, false, "SA", none, nil}},
		"ports used again":          {{0, true, "S", none, out}, {0, false, "FA", none, nil}, {0, true, "FA", none, nil}, {1, true, "S", isolated, nothing}},
		"another pod's address now": {{0, true, "S", none, out}, {0, false, "SA", isolated, another}},
	} {
		f, n, now := NewFlows(), (*Node)(nil), uint32(1000)
		for i, s := range steps {
			if now += s.after; s.node != nil {
				n = s.node
			}
			if r := f.Connections.judge(n, s.sight(), s.end(), s.from, now); r.Reason != s.reason {
				t.Errorf("%s, step %d: %+v, want %s", name, i, r, s.reason)
			}
		}
	}
}

func (s step) protocol() model.Protocol {
	if s.flags == "" {
		return model.UDP
	}
	return model.TCP
}

func (s step) end() End { return End{s.protocol(), pod, elsewhere} }

func (s step) sight() Sight {
	p := Packet{Protocol: s.protocol(), Source: pod, Destination: elsewhere}
	if !s.from {
		p.Source, p.Destination = p.Destination, p.Source
	}
	p.SYN = s.flags == "S"
	for _, flag := range s.flags {
		p.FIN, p.RST = p.FIN || flag == 'F', p.RST || flag == 'R'
	}
	return sightOf(p)
}
