// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// prohibited says if a packet is ICMP's "administratively prohibited".
func prohibited(p seen) bool {
	if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		return icmp.TypeCode == layers.CreateICMPv4TypeCode(3, 13)
	}
	icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	return ok && icmp.TypeCode == layers.CreateICMPv6TypeCode(1, 1)
}

// isReset says if a packet is a TCP RST.
func isReset(p seen) bool {
	tcp, ok := p.TransportLayer().(*layers.TCP)
	return ok && tcp.RST
}

// denial is a packet that is denied, and what its answer must be.
type denial struct {
	name     string
	packet   []byte
	answers  func(seen) bool
	from, to string
}

func denials(t testing.TB, from, to string) []denial {
	t.Helper()
	host := func(addr string) string { return bare(addr).String() }
	return []denial{
		{"a SYN", segment{from: from + ":4000", to: to + ":80", syn: true}.frame(t), isReset, to + ":80", from + ":4000"},
		{"a datagram", segment{from: from + ":4000", to: to + ":80", udp: true}.frame(t), prohibited, host(to), host(from)},
		{"a ping", echo(t, from, to, 7, false), prohibited, host(to), host(from)},
	}
}

// Policy row 3: by choice what NetworkPolicies isolate is answered, by whom it was for; the answer passes though its
// pod is isolated, and nothing else does.
// Trap 4: such an answer is for who sent what it answers, and comes from whom that was for.
func TestIsolatedConnectionsAreRefused(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			plane := newCourt(t, bpf.Options{PolicyReject: true}, closed(f)...)
			from, to, first, second := f.pod, f.peer, plane.RunFromPod, plane.RunToPod
			if direction == model.Ingress {
				from, to, first, second = f.peer, f.pod, plane.RunToPod, plane.RunFromPod
			}
			for _, d := range denials(t, from, to) {
				verdict, out, err := first(d.packet, 0)
				check(t, err)
				answer := decode(t, out)
				if verdict != bpf.Refuse || !d.answers(answer) || answer.from != d.from || answer.to != d.to {
					t.Errorf("%v, %s: %v by %v", direction, d.name, verdict, answer)
				}
				verdict, passed, err := second(out, 0)
				check(t, err)
				if verdict != bpf.Pass || string(passed) != string(out) {
					t.Errorf("%v, %s: its answer: %v", direction, d.name, verdict)
				}
				verdict, _, err = second(out, 0)
				check(t, err)
				want(t, d.name+": the answer again", verdict, bpf.Drop)
				verdict, _, err = first(d.packet, 0)
				check(t, err)
				want(t, d.name+" again", verdict, bpf.Refuse)
			}
			if got := tracked(t, plane); len(got) != 0 {
				t.Errorf("tracked: %+v", got)
			}
			plane.Close()
		}
	})
}

// Policy row 5: what a ClusterNetworkPolicy denies, and what is closed, is never answered; nor is what isolates without
// the choice, nor what is no first packet.
func TestDenialsAreSilent(t *testing.T) {
	f := families[0]
	for _, reject := range []bool{false, true} {
		plane := newCourt(t, bpf.Options{PolicyReject: reject}, podOf(f.pod), model.Network{Prefix: f.networks, Kind: model.NetworkPods})
		actions := []model.Action{model.ActionDeny, model.ActionClosed, 77}
		if !reject {
			actions = append(actions, model.ActionIsolate)
		}
		for _, action := range actions {
			allow(t, plane, model.Ingress, action)
			allow(t, plane, model.Egress, action)
			for _, d := range denials(t, f.pod, f.peer) {
				want(t, d.name+" "+action.String(), sends(t, plane, d.packet), bpf.Drop)
			}
			for _, d := range denials(t, f.peer, f.pod) {
				want(t, d.name+" "+action.String(), gets(t, plane, d.packet), bpf.Drop)
			}
		}
		allow(t, plane, model.Ingress, model.ActionIsolate)
		allow(t, plane, model.Egress, model.ActionIsolate)
		want(t, "an echo's answer", sends(t, plane, echo(t, f.pod, f.peer, 7, true)), bpf.Drop)
		want(t, "a reset", sends(t, plane, segment{from: f.pod + ":80", to: f.peer + ":80", rst: true}.frame(t)), bpf.Drop)
		want(t, "of an unknown pod", sends(t, plane, segment{from: f.peer + ":80", to: f.pod + ":80", syn: true}.frame(t)), bpf.Drop)
	}
}

// Policy row 3: what is refused of a Service is refused by the Service, and a connection that ends is told so, too.
func TestRefusalsOfServicesReachIsolatedPods(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Helper()
		plane := newCourt(t, bpf.Options{PolicyReject: true}, closed(f)...)
		testkit.Put(t, plane, oneService(model.TCP)...)
		empty := map[bool]string{true: "10.96.0.9:80", false: "[fd00:96::9]:80"}[bare(f.pod).Is4()]
		testkit.Put(t, plane, testkit.Service{Set: 9, Protocol: model.UDP, Frontends: at(empty)}, testkit.Service{Set: 8, Protocol: model.TCP, Frontends: at(empty)})
		reached := func(what string, s segment) {
			t.Helper()
			s.from = f.pod + ":4000"
			verdict, out, err := plane.RunFromPod(s.frame(t), 0)
			check(t, err)
			want(t, what, verdict, bpf.Refuse)
			verdict, passed, err := plane.RunToPod(out, 0)
			check(t, err)
			got, from := decode(t, passed), s.to
			if s.udp {
				from = bare(s.to[:len(s.to)-len(":80")]).String()
			}
			if verdict != bpf.Pass || got.from != from {
				t.Errorf("the answer to %s: %v from %s, want it from %s", what, verdict, got.from, from)
			}
		}
		reached("a Service that is isolated", segment{to: f.service, syn: true})
		reached("a Service without backends", segment{to: empty, syn: true})
		reached("a datagram to one", segment{to: empty, udp: true})
		reached("no connection", segment{to: f.service, ack: true})
		allow(t, plane, model.Egress, model.ActionAllow)
		want(t, "allowed", sends(t, plane, segment{from: f.pod + ":4000", to: f.service, syn: true}.frame(t)), bpf.Pass)
		allow(t, plane, model.Egress, model.ActionIsolate)
		reached("a connection that is isolated by now", segment{to: f.service, ack: true})
		testkit.RemoveBackend(t, plane, map[bool]uint32{true: 1, false: 2}[bare(f.pod).Is4()])
		check(t, plane.PassTime(1))
		reached("a connection whose backend is gone", segment{to: f.service, ack: true})
	})
}
