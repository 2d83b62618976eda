// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// talk is a connection of the pod 10.1.0.9 with 10.1.0.1, port 80 of who did not begin it.
type talk struct {
	t     testing.TB
	plane *bpf.Dataplane
	pod   string
	peer  string
}

func talkOf(t testing.TB, plane *bpf.Dataplane, f family, began model.Direction) talk {
	t.Helper()
	if began == model.Egress {
		return talk{t, plane, f.pod + ":4000", f.peer + ":80"}
	}
	return talk{t, plane, f.pod + ":80", f.peer + ":4000"}
}

// sent is what becomes of a packet of the pod.
func (c talk) sent(s segment) bpf.Verdict {
	c.t.Helper()
	s.from, s.to = c.pod, c.peer
	return sends(c.t, c.plane, s.frame(c.t))
}

// got is what becomes of a packet to the pod.
func (c talk) got(s segment) bpf.Verdict {
	c.t.Helper()
	s.from, s.to = c.peer, c.pod
	return gets(c.t, c.plane, s.frame(c.t))
}

// by is a packet of who began it, or of the other.
func (c talk) by(beginner bool, began model.Direction, s segment) bpf.Verdict {
	c.t.Helper()
	if beginner == (began == model.Egress) {
		return c.sent(s)
	}
	return c.got(s)
}

// tracked returns how many connections there are.
func tracked(t testing.TB, plane *bpf.Dataplane) (all []abi.Connection) {
	t.Helper()
	check(t, plane.Connections(t.Context(), func(_ *abi.ConnectionKey, c *abi.Connection) bool {
		all = append(all, *c)
		return true
	}))
	return all
}

// closed is a pod that is isolated in both directions.
func closed(f family) []any {
	return []any{podOf(f.pod), says(ingressSet, 0, model.ActionIsolate, 0), says(egressSet, 0, model.ActionIsolate, 0)}
}

// again forgets all connections, and judges by these rows from now on.
func again(t testing.TB, plane *bpf.Dataplane, rows ...any) {
	t.Helper()
	check(t, plane.ForgetFlows())
	testkit.PutPolicy(t, plane, rows...)
	check(t, plane.Judge(true))
}

// allow has a rule set say so about all.
func allow(t testing.TB, plane *bpf.Dataplane, direction model.Direction, action model.Action) {
	t.Helper()
	set := map[model.Direction]model.RuleSetID{model.Ingress: ingressSet, model.Egress: egressSet}[direction]
	testkit.PutPolicy(t, plane, says(set, 0, action, 0))
	check(t, plane.Judge(true))
}

// Policy row 3: answers of a connection that was allowed pass, whatever is said of the other direction.
// Trap 44: isolation is per direction, and replies are always allowed.
func TestAnswersPass(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{})
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			for _, kind := range []segment{{syn: true}, {udp: true}, {sctp: true}} {
				again(t, plane, closed(f)...)
				allow(t, plane, direction, model.ActionAllow)
				c := talkOf(t, plane, f, direction)
				answer, more := kind, kind
				answer.ack, more.syn, more.ack = kind.syn, false, kind.syn
				want(t, "its first answer, before it has begun", c.by(false, direction, answer), map[bool]bpf.Verdict{true: bpf.Pass, false: bpf.Drop}[kind.syn])
				want(t, "its first packet", c.by(true, direction, kind), bpf.Pass)
				want(t, "its answer", c.by(false, direction, answer), bpf.Pass)
				want(t, "more of it", c.by(true, direction, more), bpf.Pass)
				want(t, "more of its answer", c.by(false, direction, more), bpf.Pass)
				check(t, plane.Judge(true))
				want(t, "its answer, judged again", c.by(false, direction, more), bpf.Pass)
				if got := tracked(t, plane); len(got) != 1 {
					t.Errorf("tracked: %+v", got)
				}
			}
		}
	})
}

// Policy row 3: a connection that policies deny by now ends at its next packet, in either direction, and comes back
// to life if they allow it again. It never turns into one of the other direction.
func TestPolicyChangesApplyToWhatHasBegun(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{})
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			again(t, plane, closed(f)...)
			allow(t, plane, model.Ingress, model.ActionAllow)
			allow(t, plane, model.Egress, model.ActionAllow)
			c := talkOf(t, plane, f, direction)
			want(t, "its first packet", c.by(true, direction, segment{syn: true}), bpf.Pass)
			want(t, "its answer", c.by(false, direction, segment{syn: true, ack: true}), bpf.Pass)
			allow(t, plane, direction, model.ActionIsolate)
			for range 2 {
				want(t, "its next packet", c.by(true, direction, segment{ack: true}), bpf.Drop)
				want(t, "its next answer", c.by(false, direction, segment{ack: true, fin: true}), bpf.Drop)
				want(t, "its reset", c.by(true, direction, segment{rst: true}), bpf.Drop)
			}
			want(t, "one like it", c.by(true, direction, segment{syn: true, seq: 9}), bpf.Drop)
			allow(t, plane, direction, model.ActionAllow)
			want(t, "its packet, allowed again", c.by(true, direction, segment{ack: true}), bpf.Pass)
			if got := tracked(t, plane); len(got) != 1 || got[0].State&^abi.ConnectionIngress != abi.ConnectionAnswered {
				t.Errorf("tracked: %+v", got)
			}
		}
	})
}

// Policy row 3: datagrams that are denied by now stay denied while who began goes on, whatever the other end may begin: an
// answer that was on its way when policies changed turns nothing round.
func TestDatagramsDoNotTurnWithPolicies(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{})
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			again(t, plane, closed(f)...)
			allow(t, plane, model.Ingress, model.ActionAllow)
			allow(t, plane, model.Egress, model.ActionAllow)
			c := talkOf(t, plane, f, direction)
			want(t, "asked", c.by(true, direction, segment{udp: true}), bpf.Pass)
			want(t, "answered", c.by(false, direction, segment{udp: true}), bpf.Pass)
			allow(t, plane, direction, model.ActionIsolate)
			for range 2 {
				want(t, "asked when denied", c.by(true, direction, segment{udp: true}), bpf.Drop)
				want(t, "answered when denied", c.by(false, direction, segment{udp: true}), bpf.Drop)
			}
			allow(t, plane, direction, model.ActionAllow)
			want(t, "asked again", c.by(true, direction, segment{udp: true}), bpf.Pass)
			if got := tracked(t, plane); len(got) != 1 || got[0].State&^abi.ConnectionIngress != abi.ConnectionAnswered {
				t.Errorf("tracked: %+v", got)
			}
		}
	})
}

// Policy row 3: by choice, what has begun goes on; what begins from the same port is judged.
func TestEstablishedConnectionsMayBeKept(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{KeepEstablished: true})
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			again(t, plane, closed(f)...)
			allow(t, plane, direction, model.ActionAllow)
			c := talkOf(t, plane, f, direction)
			want(t, "its first packet", c.by(true, direction, segment{syn: true}), bpf.Pass)
			allow(t, plane, direction, model.ActionIsolate)
			for range 2 {
				want(t, "its answer", c.by(false, direction, segment{syn: true, ack: true}), bpf.Pass)
				want(t, "more of it", c.by(true, direction, segment{ack: true}), bpf.Pass)
				want(t, "a new one", c.by(true, direction, segment{syn: true, seq: 9}), bpf.Drop)
			}
			testkit.PutPolicy(t, plane, testkit.Pod{Addr: bare(f.pod), Ingress: ingressSet, Egress: egressSet, Incarnation: 2})
			check(t, plane.Judge(true))
			want(t, "to another pod", c.by(true, direction, segment{ack: true}), bpf.Drop)
		}
	})
}

// Trap 42: a pod that has the address of one that went has none of its connections.
func TestConnectionsAreOfOnePod(t *testing.T) {
	f := families[0]
	plane := newCourt(t, bpf.Options{}, closed(f)...)
	testkit.PutPolicy(t, plane, model.Network{Prefix: f.networks, Kind: model.NetworkPods})
	allow(t, plane, model.Egress, model.ActionAllow)
	c := talkOf(t, plane, f, model.Egress)
	want(t, "sent", c.sent(segment{udp: true}), bpf.Pass)
	want(t, "got", c.got(segment{udp: true}), bpf.Pass)
	testkit.RemovePod(t, plane, bare(f.pod))
	check(t, plane.Judge(true))
	want(t, "got by nobody", c.got(segment{udp: true}), bpf.Drop)
	testkit.PutPolicy(t, plane, testkit.Pod{Addr: bare(f.pod), Ingress: ingressSet, Egress: egressSet, Incarnation: 2})
	want(t, "got by another", c.got(segment{udp: true}), bpf.Drop)
	want(t, "sent by another", c.sent(segment{udp: true}), bpf.Pass)
	want(t, "got by it", c.got(segment{udp: true}), bpf.Pass)
}

// Policy row 3: TCP whose beginning nobody saw passes if either end might have begun it. What begins is judged in its
// own direction, also where a connection of these ports is known.
// Trap 12: a SYN from a port that is used again is judged anew, a repeated one passes as the first did.
// Trap 14: a packet amid a connection that isn't known is dealt with on purpose, and differently for TCP and UDP.
func TestWhatBeginsAndWhatGoesOn(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{})
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			again(t, plane, closed(f)...)
			c := talkOf(t, plane, f, direction)
			for _, beginner := range []bool{true, false} {
				want(t, "amid one that neither may begin", c.by(beginner, direction, segment{ack: true}), bpf.Drop)
			}
			allow(t, plane, direction, model.ActionAllow)
			want(t, "a SYN of the denied direction", c.by(false, direction, segment{syn: true}), bpf.Drop)
			want(t, "amid an unknown one", c.by(false, direction, segment{ack: true}), bpf.Pass)
			want(t, "a SYN of the denied direction, amid a known one", c.by(false, direction, segment{syn: true}), bpf.Drop)
			want(t, "amid the known one", c.by(false, direction, segment{ack: true}), bpf.Pass)
			want(t, "a SYN like the one that began it", c.by(true, direction, segment{syn: true}), bpf.Pass)
			ingress := map[model.Direction]uint8{model.Ingress: abi.ConnectionIngress}[direction]
			if got := tracked(t, plane); len(got) != 1 || got[0].State != ingress|abi.ConnectionAnswered {
				t.Errorf("tracked: %+v", got)
			}
			want(t, "its end", c.by(true, direction, segment{ack: true, fin: true}), bpf.Pass)
			want(t, "its other end", c.by(false, direction, segment{ack: true, fin: true}), bpf.Pass)
			want(t, "a new one", c.by(true, direction, segment{syn: true}), bpf.Pass)
			if got := tracked(t, plane); len(got) != 1 || got[0].State != ingress {
				t.Errorf("tracked: %+v", got)
			}
		}
	})
}

// Trap 13: each side's end is noted, a reset until something else comes.
func TestConnectionsNoteTheirEnds(t *testing.T) {
	f := families[0]
	plane := newCourt(t, bpf.Options{}, testkit.Pod{Addr: bare(f.pod), Incarnation: 1})
	c := talkOf(t, plane, f, model.Egress)
	for i, step := range []struct {
		sent  bool
		s     segment
		state uint8
	}{
		{true, segment{syn: true}, 0},
		{false, segment{syn: true, ack: true}, abi.ConnectionAnswered},
		{false, segment{rst: true}, abi.ConnectionAnswered | abi.ConnectionReset},
		{true, segment{ack: true}, abi.ConnectionAnswered},
		{true, segment{ack: true, fin: true}, abi.ConnectionAnswered | abi.ConnectionPodFin},
		{false, segment{ack: true, fin: true}, abi.ConnectionAnswered | abi.ConnectionPodFin | abi.ConnectionPeerFin},
	} {
		want(t, "a packet", map[bool]func(segment) bpf.Verdict{true: c.sent, false: c.got}[step.sent](step.s), bpf.Pass)
		got := tracked(t, plane)
		if len(got) != 1 || got[0].State != step.state || got[0].Incarnation != 1 || got[0].Epoch != 1 {
			t.Errorf("step %d: %+v, want state %d", i, got, step.state)
		}
	}
}

// Policy row 1: a Service's connection is judged with the backend that it gets; what is denied leaves nothing behind,
// and the backend's answers come as the Service's.
// Trap 44: what a policy says of a Service's own address counts for nothing.
func TestServicesAreJudgedByTheirBackends(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{})
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			again(t, plane, closed(f)...)
			testkit.Put(t, plane, oneService(protocol)...)
			packet := segment{from: f.pod + ":4000", to: f.service, syn: protocol == model.TCP, udp: protocol == model.UDP}
			want(t, "denied", sends(t, plane, packet.frame(t)), bpf.Drop)
			if e := event(t, plane); abi.Addr(e.Destination) != bare(f.peer) || abi.HostPort(e.DestinationPort) != 8080 || e.Set == 0 {
				t.Errorf("told as to %s, port %d, of set %d", abi.Addr(e.Destination), abi.HostPort(e.DestinationPort), e.Set)
			}
			uses, err := plane.Use()
			check(t, err)
			for _, use := range uses {
				if (use.Map == "flows_v2" || use.Map == "connections_v1") && use.Entries != 0 {
					t.Errorf("%d entries in %s", use.Entries, use.Map)
				}
			}
			vip := bare(f.service[:len(f.service)-len(":80")])
			testkit.PutPolicy(t, plane, model.Peer{Addr: vip, Identity: 5}, model.Peer{Addr: bare(f.peer), Identity: 6}, says(egressSet, 5, model.ActionAllow, 0))
			want(t, "allowed to the Service's address", sends(t, plane, packet.frame(t)), bpf.Drop)
			testkit.PutPolicy(t, plane, model.Peer{Addr: vip, Identity: 6}, model.Peer{Addr: bare(f.peer), Identity: 5})
			check(t, plane.Judge(true))
			more := packet
			more.syn, more.ack = false, packet.syn
			for _, p := range []segment{packet, more} {
				verdict, out := fromPod(t, plane, p)
				want(t, "allowed to the backend", verdict, bpf.Pass)
				back := segment{from: out.to, to: out.from, udp: p.udp, syn: p.syn, ack: packet.syn}
				if got := toPod(t, plane, back); got.from != f.service {
					t.Errorf("answered by %s, want %s", got.from, f.service)
				}
			}
			if got := tracked(t, plane); len(got) != 1 {
				t.Errorf("tracked: %+v", got)
			}
			testkit.PutPolicy(t, plane, model.Peer{Addr: bare(f.peer), Identity: 6})
			check(t, plane.Judge(true))
			want(t, "denied amid it", sends(t, plane, more.frame(t)), bpf.Drop)
			want(t, "its answer", gets(t, plane, segment{from: f.peer + ":8080", to: f.pod + ":4000", udp: more.udp, ack: more.ack}.frame(t)), bpf.Drop)
		}
	})
}

// Trap 14: what was silent for too long is unknown: a datagram begins anew, and TCP goes on as from the middle.
func TestSilentConnectionsAreOver(t *testing.T) {
	f := families[0]
	plane := newCourt(t, bpf.Options{})
	for _, c := range []struct {
		s        segment
		answered bool
		kept     uint32
	}{
		{segment{udp: true}, false, 30}, {segment{udp: true}, true, 120}, {segment{sctp: true}, true, 210},
	} {
		for _, over := range []bool{false, true} {
			again(t, plane, closed(f)...)
			allow(t, plane, model.Egress, model.ActionAllow)
			talk := talkOf(t, plane, f, model.Egress)
			want(t, "its first packet", talk.sent(c.s), bpf.Pass)
			if c.answered {
				want(t, "its answer", talk.got(c.s), bpf.Pass)
			}
			silence, verdict := c.kept-1, bpf.Pass // a second may go by meanwhile
			if over {
				silence, verdict = c.kept+1, bpf.Drop
			}
			check(t, plane.PassTime(silence))
			want(t, fmt.Sprintf("%+v after %d s", c, silence), talk.got(c.s), verdict)
		}
	}
	again(t, plane, closed(f)...)
	allow(t, plane, model.Egress, model.ActionAllow)
	talk := talkOf(t, plane, f, model.Egress)
	want(t, "a SYN", talk.sent(segment{syn: true}), bpf.Pass)
	check(t, plane.PassTime(61))
	want(t, "an answer late", talk.got(segment{ack: true}), bpf.Pass)
	if got := tracked(t, plane); len(got) != 1 || got[0].State != abi.ConnectionAnswered {
		t.Errorf("tracked: %+v", got)
	}
}
