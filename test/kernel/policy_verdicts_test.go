// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// towards is the first packet of a connection that a pod begins, or another with it.
func towards(t testing.TB, plane *bpf.Dataplane, direction model.Direction, pod, peer string, port uint16, packet segment) bpf.Verdict {
	t.Helper()
	packet.from, packet.to = pod+":4000", fmt.Sprintf("%s:%d", peer, port)
	if direction == model.Egress {
		return sends(t, plane, packet.frame(t))
	}
	packet.from, packet.to = peer+":4000", fmt.Sprintf("%s:%d", pod, port)
	return gets(t, plane, packet.frame(t))
}

// Policy row 1: a connection is judged by the peer's identity and by the port that is dialled, in its direction alone.
// Policy row 2: a block finds any address, its exceptions none, and an address that is named otherwise isn't asked of
// blocks.
// Policy row 10: of several ranges that have the port, the narrowest says.
// Trap 43: a port counts for its protocol alone.
func TestVerdictsAreFoundByIdentityAndPort(t *testing.T) {
	const friend, blocked, table = 7, 8, 0xabcdef0123456789
	for _, f := range families {
		block := netip.PrefixFrom(bare(f.stranger), bare(f.stranger).BitLen()-8).Masked()
		except := netip.PrefixFrom(block.Addr(), block.Bits()+6)
		rows := []any{
			model.Peer{Addr: bare(f.peer), Identity: friend},
			model.Block{Prefix: block, Identity: blocked},
			model.Block{Prefix: except},
			model.Block{Prefix: f.networks, Identity: blocked},
		}
		for _, set := range []model.RuleSetID{ingressSet, egressSet} {
			ofBlock := says(set, blocked, model.ActionIsolate, 0)
			ofBlock.Ports = table
			rows = append(rows, says(set, 0, model.ActionIsolate, 0), says(set, friend, model.ActionAllow, 1), ofBlock)
		}
		for _, p := range []model.PortVerdict{
			{PortKey: model.PortKey{Protocol: model.TCP, Port: 80, Bits: 16}, Action: model.ActionAllow},
			{PortKey: model.PortKey{Protocol: model.TCP, Port: 8080, Bits: 13}, Action: model.ActionAllow},
			{PortKey: model.PortKey{Protocol: model.TCP, Port: 8081, Bits: 16}, Action: model.ActionDeny},
			{PortKey: model.PortKey{Protocol: model.UDP}, Action: model.ActionAllow},
		} {
			p.Ports = table
			rows = append(rows, p)
		}
		far := netip.AddrPortFrom(block.Addr().Next(), 0).String() // in what is excepted
		far = far[:len(far)-len(":0")]
		for direction, set := range map[model.Direction]model.RuleSetID{model.Ingress: ingressSet, model.Egress: egressSet} {
			pod := testkit.Pod{Addr: bare(f.pod), Ingress: ingressSet, Incarnation: 1}
			if direction == model.Egress {
				pod.Ingress, pod.Egress = 0, egressSet
			}
			plane := newCourt(t, bpf.Options{}, append(rows, pod)...)
			for _, c := range []struct {
				peer   string
				packet segment
				port   uint16
				reason model.DropReason
			}{
				{f.peer, segment{syn: true}, 80, 0},
				{f.peer, segment{syn: true}, 9999, 0},
				{f.peer, segment{udp: true}, 53, 0},
				{f.peer, segment{sctp: true}, 53, 0},
				{f.stranger, segment{syn: true}, 80, 0},
				{f.stranger, segment{syn: true}, 81, model.ReasonIsolated},
				{f.stranger, segment{udp: true}, 81, 0},
				{f.stranger, segment{sctp: true}, 80, model.ReasonIsolated},
				{f.stranger, segment{syn: true}, 8079, model.ReasonIsolated},
				{f.stranger, segment{syn: true}, 8080, 0},
				{f.stranger, segment{syn: true}, 8081, model.ReasonDenied},
				{f.stranger, segment{syn: true}, 8087, 0},
				{f.stranger, segment{syn: true}, 8088, model.ReasonIsolated},
				{far, segment{syn: true}, 80, model.ReasonIsolated},
				{f.node, segment{udp: true}, 80, model.ReasonIsolated},
			} {
				what := fmt.Sprintf("%s %v %s %+v port %d", f.name, direction, c.peer, c.packet, c.port)
				if c.reason == 0 {
					want(t, what, towards(t, plane, direction, f.pod, c.peer, c.port, c.packet), bpf.Pass)
				} else {
					want(t, what, towards(t, plane, direction, f.pod, c.peer, c.port, c.packet), bpf.Drop)
					e := event(t, plane)
					got := abi.DropEvent{Reason: e.Reason, RuleSet: e.RuleSet, Direction: e.Direction}
					if got != (abi.DropEvent{Reason: uint8(c.reason), RuleSet: uint64(set), Direction: uint8(direction)}) {
						t.Errorf("%s: told as %+v", what, got)
					}
				}
				other := model.Ingress + model.Egress - direction
				want(t, what+", the free direction", towards(t, plane, other, f.pod, c.peer, c.port+10000, c.packet), bpf.Pass)
			}
		}
	}
}

// Policy row 9: a rule set that says nothing about anyone lets nothing pass; so does an action that is none.
// Policy row 11: each drop is told with its reason, the rule set, the rule and who sent what to whom.
func TestWhatNothingIsSaidAboutIsClosed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{}, podOf(f.pod), says(egressSet, 0, 77, 5), model.Peer{Addr: bare(f.peer), Identity: 3})
		want(t, "no verdict", towards(t, plane, model.Ingress, f.pod, f.peer, 80, segment{syn: true}), bpf.Drop)
		got := event(t, plane)
		got.Time = 0
		told := abi.DropEvent{
			Source: bare(f.peer).As16(), Destination: bare(f.pod).As16(), SourcePort: abi.Port(4000), DestinationPort: abi.Port(80),
			Protocol: uint8(model.TCP), Reason: uint8(model.ReasonPolicyClosed), Via: 2,
			Direction: uint8(model.Ingress), RuleSet: uint64(ingressSet),
		}
		if diff := cmp.Diff(told, got, cmpopts.IgnoreUnexported(abi.DropEvent{})); diff != "" {
			t.Error(diff)
		}
		want(t, "an action that is none", towards(t, plane, model.Egress, f.pod, f.peer, 80, segment{syn: true}), bpf.Drop)
		if e := event(t, plane); e.Rule != 5 || e.Reason != uint8(model.ReasonPolicyClosed) {
			t.Errorf("told as %+v", e)
		}
	})
}

// Policy row 4: a pod reaches itself, also through a Service, and its own node reaches it, whatever policies say.
// Trap 21: a pod that reaches itself through a Service is not judged.
// Trap 44: probes of the pod's own node are allowed, and their answers.
func TestPodItselfAndItsNodeAreAllowed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{}, podOf(f.pod), says(ingressSet, 0, model.ActionDeny, 1), says(egressSet, 0, model.ActionDeny, 2))
		testkit.Put(t, plane, testkit.Service{
			Set: 1, Protocol: model.TCP, Frontends: at(f.service),
			Backends: map[uint32]netip.AddrPort{1: netip.AddrPortFrom(bare(f.pod), 80)},
		})
		node := bare(f.node)
		check(t, plane.SetLocals(map[netip.Addr]uint8{node: 0}))
		uplink := abi.Uplink{V4: netip.MustParseAddr("172.20.0.2").As16(), V6: netip.MustParseAddr("fd00:20::2").As16()}
		check(t, plane.SetUplinks(map[int]abi.Uplink{0: uplink}))

		want(t, "to itself", towards(t, plane, model.Egress, f.pod, f.pod, 80, segment{syn: true}), bpf.Pass)
		want(t, "from itself", towards(t, plane, model.Ingress, f.pod, f.pod, 80, segment{udp: true}), bpf.Pass)
		syn := segment{from: f.pod + ":4000", to: f.service, syn: true}
		verdict, out := fromPod(t, plane, syn)
		want(t, "to itself through a Service", verdict, bpf.Pass)
		verdict, masqueraded, err := plane.RunToPod(out.Data(), 0)
		check(t, err)
		want(t, "its packet that comes back", verdict, bpf.Pass)
		back := decode(t, masqueraded)
		answer := segment{from: back.to, to: back.from, syn: true, ack: true}
		verdict, out = fromPod(t, plane, answer)
		want(t, "its answer", verdict, bpf.Pass)
		want(t, "its answer that comes back", gets(t, plane, out.Data()), bpf.Pass)

		want(t, "from the node", towards(t, plane, model.Ingress, f.pod, f.node, 80, segment{syn: true}), bpf.Pass)
		want(t, "its answer", sends(t, plane, segment{from: f.pod + ":80", to: f.node + ":4000", syn: true, ack: true}.frame(t)), bpf.Pass)
		check(t, plane.Judge(true))
		want(t, "its answer, judged again", sends(t, plane, segment{from: f.pod + ":80", to: f.node + ":4000", ack: true}.frame(t)), bpf.Pass)
		want(t, "to the node", towards(t, plane, model.Egress, f.pod, f.node, 80, segment{syn: true}), bpf.Drop)
		want(t, "in the node's name", towards(t, plane, model.Egress, f.node, f.pod, 80, segment{udp: true}), bpf.Drop)
	})
}

// Policy row 7: a pod that isn't known yet passes nothing, in either direction; without policies it does.
func TestUnknownPodsPassNothing(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{}, model.Network{Prefix: f.networks, Kind: model.NetworkPods})
		for _, packet := range []segment{{syn: true}, {ack: true}, {udp: true}} {
			want(t, "sent", towards(t, plane, model.Egress, f.pod, f.stranger, 80, packet), bpf.Drop)
			want(t, "got", towards(t, plane, model.Ingress, f.pod, f.stranger, 80, packet), bpf.Drop)
			want(t, "sent from another network", towards(t, plane, model.Egress, f.node, f.stranger, 80, packet), bpf.Pass)
			want(t, "got in another network", towards(t, plane, model.Ingress, f.node, f.stranger, 80, packet), bpf.Pass)
		}
		want(t, "a ping", sends(t, plane, echo(t, f.pod, f.stranger, 1, false)), bpf.Drop)
		if got := drops(t, plane); got[model.ReasonUnknownPod] != 7 || len(got) != 1 {
			t.Errorf("drops: %v", got)
		}
		if e := event(t, plane); e.Reason != uint8(model.ReasonUnknownPod) || e.Direction != uint8(model.Egress) || e.RuleSet != 0 {
			t.Errorf("told as %+v", e)
		}
		testkit.PutPolicy(t, plane, testkit.Pod{Addr: bare(f.pod), Incarnation: 1})
		want(t, "once it is known", towards(t, plane, model.Egress, f.pod, f.stranger, 80, segment{syn: true}), bpf.Pass)
		testkit.RemovePod(t, plane, bare(f.pod))
		check(t, plane.Judge(false))
		want(t, "without policies", towards(t, plane, model.Egress, f.pod, f.stranger, 80, segment{syn: true}), bpf.Pass)
	})
}

// Policy row 11: rules count the connections that they decide, once each, and once more where policies change that.
//
// Promise P6: each connection that policies decide counts for the rule that decided it.
func TestRulesCountConnections(t *testing.T) {
	plane := newCourt(t, bpf.Options{}, podOf("10.1.0.9"), says(egressSet, 0, model.ActionAllow, 1), says(ingressSet, 0, model.ActionDeny, 2))
	packet := func(s segment) []byte {
		s.from, s.to = "10.1.0.9:4000", "10.1.0.1:80"
		return s.frame(t)
	}
	for _, s := range []segment{{syn: true}, {ack: true}, {ack: true, payload: 9}} {
		want(t, "allowed", sends(t, plane, packet(s)), bpf.Pass)
	}
	for range 2 {
		want(t, "denied", towards(t, plane, model.Ingress, "10.1.0.9", "10.1.0.1", 80, segment{syn: true}), bpf.Drop)
	}
	check(t, plane.Judge(true))
	want(t, "judged again", sends(t, plane, packet(segment{ack: true})), bpf.Pass)
	testkit.PutPolicy(t, plane, says(egressSet, 0, model.ActionAllow, 3))
	check(t, plane.Judge(true))
	for range 2 {
		want(t, "by another rule", sends(t, plane, packet(segment{ack: true})), bpf.Pass)
	}
	hits, err := plane.RuleHits()
	check(t, err)
	if diff := cmp.Diff(map[model.RuleID]uint64{1: 1, 2: 2, 3: 1}, hits); diff != "" {
		t.Error(diff)
	}
}
