// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Policy row 1: what has no ports is judged by rules that name none, and an echo's answer passes; an echo of the other
// direction is no answer, whatever its identifier.
func TestEchoesAreJudgedByTheirIdentifier(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{})
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			again(t, plane, closed(f)...)
			out := func(id uint16, reply bool) bpf.Verdict { return sends(t, plane, echo(t, f.pod, f.peer, id, reply)) }
			in := func(id uint16, reply bool) bpf.Verdict { return gets(t, plane, echo(t, f.peer, f.pod, id, reply)) }
			there, back := out, in
			if direction == model.Ingress {
				there, back = in, out
			}
			want(t, "denied", there(7, false), bpf.Drop)
			allow(t, plane, direction, model.ActionAllow)
			want(t, "its answer, unasked", back(7, true), bpf.Drop)
			for range 2 {
				want(t, "allowed", there(7, false), bpf.Pass)
				want(t, "its answer", back(7, true), bpf.Pass)
				want(t, "another's answer", back(8, true), bpf.Drop)
				want(t, "one of the other direction", back(7, false), bpf.Drop)
			}
			allow(t, plane, direction, model.ActionIsolate)
			want(t, "its answer when denied", back(7, true), bpf.Drop)
			want(t, "denied by now", there(7, false), bpf.Drop)
			allow(t, plane, direction, model.ActionAllow)
			check(t, plane.PassTime(31))
			want(t, "its answer late", back(7, true), bpf.Drop)
		}
	})
}

// Policy row 1: protocols without ports match rules that name no port, and are known by their addresses.
func TestOtherProtocolsAreJudgedByAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		const gre, table = layers.IPProtocolGRE, 9
		plane := newCourt(t, bpf.Options{}, closed(f)...)
		text := make([]byte, 20)
		all := says(egressSet, 0, model.ActionIsolate, 0)
		all.Ports = table
		testkit.PutPolicy(t, plane, all,
			model.PortVerdict{PortKey: model.PortKey{Ports: table, Protocol: model.TCP}, Action: model.ActionAllow},
			model.PortVerdict{PortKey: model.PortKey{Ports: table, Protocol: model.Protocol(gre)}, Action: model.ActionAllow})
		want(t, "by a rule with ports", sends(t, plane, around(t, f.pod, f.peer, gre, text)), bpf.Drop)
		allow(t, plane, model.Egress, model.ActionAllow)
		want(t, "by one without", sends(t, plane, around(t, f.pod, f.peer, gre, text)), bpf.Pass)
		want(t, "its answer", gets(t, plane, around(t, f.peer, f.pod, gre, text)), bpf.Pass)
		want(t, "another protocol's", gets(t, plane, around(t, f.peer, f.pod, layers.IPProtocolIGMP, text)), bpf.Drop)
		want(t, "another address's", gets(t, plane, around(t, f.stranger, f.pod, gre, text)), bpf.Drop)
	})
}

// Policy row 7: without neighbours there is no link, so those pass, also of a pod that isn't known yet.
// Policy row 1: what was forwarded, or is sent to where no neighbour is, is no neighbour's, whatever its type.
func TestNeighboursPassWhateverPoliciesSay(t *testing.T) {
	f := families[1]
	plane := newCourt(t, bpf.Options{}, append(closed(f), model.Network{Prefix: f.networks, Kind: model.NetworkPods})...)
	hop := func(frame []byte, limit int) []byte { frame[14+7] = byte(limit); return frame }
	verdicts := map[bool]bpf.Verdict{true: bpf.Pass, false: bpf.Drop}
	for _, pod := range []string{f.pod, "[fd00:1::77]"} {
		for kind := 127; kind < 145; kind++ {
			for _, limit := range []int{1, 64, 254, 255} {
				passes := limit == 255 && kind >= 133 && kind <= 137 || limit == 1 && (kind >= 130 && kind <= 132 || kind == 143)
				for peer, near := range map[string]bool{f.peer: true, "[fe80::1]": true, "[ff02::16]": true, f.stranger: false} {
					frame := message(t, pod, peer, byte(kind), make([]byte, 20))
					want(t, fmt.Sprintf("type %d, %d hops, of %s to %s", kind, limit, pod, peer), sends(t, plane, hop(frame, limit)), verdicts[passes && near])
				}
				frame := message(t, f.peer, pod, byte(kind), make([]byte, 20))
				want(t, fmt.Sprintf("type %d, %d hops, to %s", kind, limit, pod), gets(t, plane, hop(frame, limit)), verdicts[passes])
			}
		}
	}
	if got := tracked(t, plane); len(got) != 0 {
		t.Errorf("tracked: %+v", got)
	}
}

// Policy row 3: an error about a known connection passes, whoever says it; one about another is judged as any message.
func TestErrorsAboutKnownConnectionsPass(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		kind := map[bool]uint8{true: 3, false: 1}[bare(f.pod).Is4()]
		pod, peer, router := bare(f.pod).String(), bare(f.peer).String(), bare(f.stranger).String()
		plane := newCourt(t, bpf.Options{})
		for _, s := range []segment{{syn: true}, {udp: true, payload: 20}, {sctp: true, payload: 20}} {
			again(t, plane, closed(f)...)
			allow(t, plane, model.Egress, model.ActionAllow)
			s.from, s.to = f.pod+":4000", f.peer+":80"
			sent, back := s.frame(t), s
			back.from, back.to = s.to, s.from
			about := func(from string, quote []byte) []byte { return icmpError(t, from, pod, kind, quote[14:]) }
			want(t, "before it has begun", gets(t, plane, about(peer, sent)), bpf.Drop)
			want(t, "its first packet", sends(t, plane, sent), bpf.Pass)
			want(t, "of the peer", gets(t, plane, about(peer, sent)), bpf.Pass)
			want(t, "of a router", gets(t, plane, about(router, sent)), bpf.Pass)
			want(t, "about another port", gets(t, plane, about(router, func() []byte { s := s; s.to = f.peer + ":81"; return s.frame(t) }())), bpf.Drop)
			want(t, "to another than it quotes", gets(t, plane, icmpError(t, router, pod, kind, back.frame(t)[14:])), bpf.Drop)
			allow(t, plane, model.Egress, model.ActionIsolate)
			want(t, "of the pod about an answer, denied by now", sends(t, plane, icmpError(t, pod, peer, kind, back.frame(t)[14:])), bpf.Drop)
			want(t, "of the pod about another's answer", sends(t, plane, icmpError(t, pod, router, kind, back.frame(t)[14:])), bpf.Drop)
			allow(t, plane, model.Egress, model.ActionAllow)
			want(t, "of the pod about an answer", sends(t, plane, icmpError(t, pod, peer, kind, back.frame(t)[14:])), bpf.Pass)
			testkit.PutPolicy(t, plane, testkit.Pod{Addr: bare(f.pod), Ingress: ingressSet, Egress: egressSet, Incarnation: 2})
			check(t, plane.Judge(true))
			want(t, "about another pod's", gets(t, plane, about(peer, sent)), bpf.Drop)
		}
		again(t, plane, closed(f)...)
		allow(t, plane, model.Egress, model.ActionAllow)
		ping := echo(t, f.pod, f.peer, 7, false)
		want(t, "a ping", sends(t, plane, ping), bpf.Pass)
		want(t, "about it", gets(t, plane, icmpError(t, router, pod, kind, ping[14:])), bpf.Pass)
		want(t, "about another", gets(t, plane, icmpError(t, router, pod, kind, echo(t, f.pod, f.peer, 8, false)[14:])), bpf.Drop)
	})
}

// Policy row 3: an error about a Service's connection is one about its backend, in both directions, and is translated.
// Trap 2: what a policy lets pass is quoted as it was sent.
func TestErrorsAboutServicesConnectionsPass(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		kind := map[bool]uint8{true: 3, false: 1}[bare(f.pod).Is4()]
		pod, peer := bare(f.pod).String(), bare(f.peer).String()
		service := bare(f.service[:len(f.service)-len(":80")]).String()
		plane := newCourt(t, bpf.Options{}, closed(f)...)
		testkit.Put(t, plane, oneService(model.UDP)...)
		allow(t, plane, model.Egress, model.ActionAllow)
		sent := segment{from: f.pod + ":4000", to: f.service, udp: true, payload: 40}.frame(t)
		verdict, became, err := plane.RunFromPod(sent, 0)
		check(t, err)
		want(t, "its first datagram", verdict, bpf.Pass)
		verdict, out, err := plane.RunToPod(icmpError(t, peer, pod, kind, became[14:]), 0)
		check(t, err)
		if got := decode(t, out); verdict != bpf.Pass || got.from != service || !cmp.Equal(out[len(out)-len(sent)+14:], sent[14:]) {
			t.Errorf("the backend's error: %v from %s", verdict, got.from)
		}
		answer := segment{from: f.peer + ":8080", to: f.pod + ":4000", udp: true, payload: 40}.frame(t)
		verdict, seen, err := plane.RunToPod(answer, 0)
		check(t, err)
		want(t, "the answer", verdict, bpf.Pass)
		allow(t, plane, model.Egress, model.ActionAllow)
		verdict, out, err = plane.RunFromPod(icmpError(t, pod, service, kind, seen[14:]), 0)
		check(t, err)
		if got := decode(t, out); verdict != bpf.Pass || got.to != peer || !cmp.Equal(out[len(out)-len(answer)+14:], answer[14:]) {
			t.Errorf("the client's error: %v to %s", verdict, got.to)
		}
		for _, c := range tracked(t, plane) {
			if c.State != abi.ConnectionAnswered {
				t.Errorf("tracked: %+v", c)
			}
		}
	})
}
