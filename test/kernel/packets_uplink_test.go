// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// An edge is a node with one uplink, between outside clients and backends, without a stack: what one hook lets
// through is given to the next by hand.
type edge struct {
	t     testing.TB
	plane *bpf.Dataplane
	*book
}

// Addresses of a node with Services in both families; the documentation's are outside.
const (
	edge4, edge6       = "192.0.2.1", "2001:db8::1"
	outside4, outside6 = "198.51.100.7:40000", "[2001:db8:7::7]:40000"
	remotePod4         = "10.2.0.5:8080"
	remotePod6         = "[fd00:2::5]:8080"
	localPod4          = "10.1.0.5:8080"
)

// loopback is the index of the interface that packets seem to come by in BPF_PROG_TEST_RUN.
const loopback = 1

func newEdge(t testing.TB, options bpf.Options) *edge {
	t.Helper()
	testkit.NeedKernel(t)
	options.Flows, options.Capacities = 1<<17, small
	plane, err := bpf.Load(options)
	check(t, err)
	t.Cleanup(plane.Close)
	e := &edge{t, plane, newBook(t, plane)}
	e.network(model.NetworkPods, "10.0.0.0/14")
	e.network(model.NetworkPods, "fd00::/32")
	e.network(model.NetworkServices, "10.96.0.0/16")
	e.network(model.NetworkServices, "fd00:96::/64")
	uplink := abi.Uplink{V4: netip.MustParseAddr(edge4).As16(), V6: netip.MustParseAddr(edge6).As16()}
	check(t, plane.SetUplinks(map[int]abi.Uplink{int(abi.UplinkAny): uplink, loopback: uplink}))
	check(t, plane.SetLocals(map[netip.Addr]uint8{
		netip.MustParseAddr(edge4): abi.LocalNodePort, netip.MustParseAddr(edge6): abi.LocalNodePort,
	}))
	return e
}

// hook gives a packet to one program and returns what came out.
func (e *edge) hook(run func([]byte, int) (bpf.Verdict, []byte, error), s segment) (bpf.Verdict, seen) {
	e.t.Helper()
	verdict, out, err := run(s.frame(e.t), 0)
	check(e.t, err)
	return verdict, decode(e.t, out)
}

// through gives a packet to two hooks, one after the other, both of which must pass it, and returns its ends.
func (e *edge) through(in, out func([]byte, int) (bpf.Verdict, []byte, error), s segment) (from, to string) {
	e.t.Helper()
	for _, hook := range []func([]byte, int) (bpf.Verdict, []byte, error){in, out} {
		verdict, got := e.hook(hook, s)
		if verdict != bpf.Pass {
			e.t.Fatalf("%s → %s: %v, drops %v", s.from, s.to, verdict, drops(e.t, e.plane))
		}
		s.from, s.to = got.from, got.to
	}
	return s.from, s.to
}

func (s segment) between(from, to string) segment { s.from, s.to = from, to; return s }

// wantEnds fails unless a packet has these ends.
func wantEnds(t testing.TB, what, from, to, wantFrom, wantTo string) {
	t.Helper()
	if from != wantFrom || to != wantTo {
		t.Errorf("%s: %s → %s, want %s → %s", what, from, to, wantFrom, wantTo)
	}
}

// Row 7: a NodePort reaches a backend of another node, and is answered by the node that was dialled.
// Trap 20: the port that masquerades is neither a NodePort nor one that the node's sockets are given.
func TestNodePortOfARemoteBackendIsMasqueradedBothWays(t *testing.T) {
	for _, c := range []struct {
		name, client, node, backend string
		family                      model.Family
		protocol                    model.Protocol
		first, answer               segment
	}{
		{"tcp4", outside4, edge4 + ":30080", remotePod4, model.IPv4, model.TCP, segment{syn: true}, segment{syn: true, ack: true, acked: 1}},
		{"tcp6", outside6, "[" + edge6 + "]:30080", remotePod6, model.IPv6, model.TCP, segment{syn: true}, segment{syn: true, ack: true, acked: 1}},
		{"udp4", outside4, edge4 + ":30080", remotePod4, model.IPv4, model.UDP, segment{udp: true, payload: 9}, segment{udp: true, payload: 7}},
		{"udp6", outside6, "[" + edge6 + "]:30080", remotePod6, model.IPv6, model.UDP, segment{udp: true, payload: 9}, segment{udp: true, payload: 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, bpf.Options{})
			e.root(1, c.protocol, c.family, c.backend)
			e.ownFront(1, model.MatchNodePort, 0, 30080)
			e.write(t)
			up := e.plane
			from, to := e.through(up.RunFromUplink, up.RunToUplink, c.first.between(c.client, c.node))
			m := netip.MustParseAddrPort(from)
			if m.Addr() != netip.MustParseAddrPort(c.node).Addr() || to != c.backend {
				t.Fatalf("%s → %s, want from the node's address to %s", from, to, c.backend)
			}
			if p := m.Port(); p < 1024 || p >= 30000 && p <= 60999 {
				t.Errorf("masqueraded with port %d, which is a NodePort's or a socket's", p)
			}
			again, _ := e.through(up.RunFromUplink, up.RunToUplink, c.first.between(c.client, c.node))
			if again != from {
				t.Errorf("the second packet is from %s, the first was from %s", again, from)
			}
			backFrom, backTo := e.through(up.RunFromUplink, up.RunToUplink, c.answer.between(c.backend, from))
			wantEnds(t, "the answer", backFrom, backTo, c.node, c.client)
		})
	}
}

func TestLocalBackendSeesTheClientFromOutside(t *testing.T) {
	for _, flags := range []model.FrontendFlags{0, model.ExternalLocal} {
		e := newEdge(t, bpf.Options{})
		e.root(1, model.TCP, model.IPv4, localPod4)
		e.part(2, 1, model.ScopeLocal, "", localPod4)
		e.ownFront(1, model.MatchNodePort, flags, 30080)
		e.write(t)
		from, to := e.through(e.plane.RunFromUplink, e.plane.RunToPod, segment{syn: true}.between(outside4, edge4+":30080"))
		wantEnds(t, "to the pod", from, to, outside4, localPod4)
		from, to = e.through(e.plane.RunFromPod, e.plane.RunToUplink, segment{syn: true, ack: true, acked: 1}.between(localPod4, outside4))
		wantEnds(t, "the answer", from, to, edge4+":30080", outside4)
	}
}

// Row 9: under externalTrafficPolicy Local the client's address is kept even where all is masqueraded.
func TestClientOfExternalPolicyLocalIsNeverMasqueraded(t *testing.T) {
	e := newEdge(t, bpf.Options{MasqueradeAll: true})
	e.root(1, model.TCP, model.IPv4, remotePod4)
	e.part(2, 1, model.ScopeLocal, "", localPod4)
	e.front(1, model.FrontendLoadBalancer, model.ExternalLocal, "203.0.113.1:80")
	e.write(t)
	// Even if that backend's packets leave by an uplink, as a bridge to another node's would.
	from, to := e.through(e.plane.RunFromUplink, e.plane.RunToUplink, segment{syn: true}.between(outside4, "203.0.113.1:80"))
	wantEnds(t, "to the backend", from, to, outside4, localPod4)
	// A pod of another node is none from outside: all backends, and its answers have to come back through here.
	from, to = e.through(e.plane.RunFromUplink, e.plane.RunToUplink, segment{syn: true}.between("10.2.0.9:40000", "203.0.113.1:80"))
	if a := netip.MustParseAddrPort(from).Addr().String(); a != edge4 || to != remotePod4 {
		t.Errorf("from another node's pod: %s → %s", from, to)
	}
}

func TestPodIsMasqueradedOnlyWhereAskedOrToItself(t *testing.T) {
	for _, all := range []bool{false, true} {
		e := newEdge(t, bpf.Options{MasqueradeAll: all})
		e.root(1, model.TCP, model.IPv4, remotePod4)
		e.front(1, model.FrontendClusterIP, 0, "10.96.0.1:80")
		e.write(t)
		from, to := e.through(e.plane.RunFromPod, e.plane.RunToUplink, segment{syn: true}.between("10.1.0.9:2000", "10.96.0.1:80"))
		want := "10.1.0.9:2000"
		if all {
			want = edge4 + ":2000"
		}
		wantEnds(t, fmt.Sprintf("masquerade all: %v", all), from, to, want, remotePod4)
	}
}

// Row 13: a pod's packets to itself come back to it from the node's address, and its answers from the Service.
func TestPodReachesItselfThroughItsService(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	e.root(1, model.TCP, model.IPv4, localPod4)
	e.front(1, model.FrontendClusterIP, 0, "10.96.0.1:80")
	e.root(2, model.UDP, model.IPv6, "[fd00:1::5]:53")
	e.front(2, model.FrontendClusterIP, 0, "[fd00:96::1]:53")
	e.write(t)
	for _, c := range []struct {
		client, service, pod, node string
		first, answer              segment
	}{
		{"10.1.0.5:2000", "10.96.0.1:80", localPod4, edge4, segment{syn: true}, segment{syn: true, ack: true, acked: 1}},
		{"[fd00:1::5]:2000", "[fd00:96::1]:53", "[fd00:1::5]:53", edge6, segment{udp: true}, segment{udp: true}},
	} {
		from, to := e.through(e.plane.RunFromPod, e.plane.RunToPod, c.first.between(c.client, c.service))
		wantEnds(t, "to itself", from, to, netip.AddrPortFrom(netip.MustParseAddr(c.node), 2000).String(), c.pod)
		from, to = e.through(e.plane.RunFromPod, e.plane.RunToPod, c.answer.between(c.pod, from))
		wantEnds(t, "the answer", from, to, c.service, c.client)
	}
}

// TestManyClientsOfOnePortAreToldApart gives one backend more connections from one client port than a port can tell,
// and many clients that all have the same port.
//
// Trap 20: thousands of clients with one port, and more connections than the port can tell, get ports of their own.
func TestManyClientsOfOnePortAreToldApart(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	e.root(1, model.TCP, model.IPv4, remotePod4)
	e.ownFront(1, model.MatchNodePort, 0, 30080)
	e.front(1, model.FrontendLoadBalancer, 0, "203.0.113.1:80")
	e.front(1, model.FrontendExternalIP, 0, "203.0.113.2:80")
	e.write(t)
	shown := map[string][2]string{}
	for i := range 2000 {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 2000).String()
		for _, service := range []string{edge4 + ":30080", "203.0.113.1:80", "203.0.113.2:80"} {
			from, _ := e.through(e.plane.RunFromUplink, e.plane.RunToUplink, segment{syn: true}.between(client, service))
			if other, taken := shown[from]; taken {
				t.Fatalf("%s to %s is shown as %s, as is %s to %s", client, service, from, other[0], other[1])
			}
			shown[from] = [2]string{client, service}
		}
	}
	for from, who := range shown {
		backFrom, backTo := e.through(e.plane.RunFromUplink, e.plane.RunToUplink, segment{syn: true, ack: true, acked: 1}.between(remotePod4, from))
		wantEnds(t, "the answer", backFrom, backTo, who[1], who[0])
	}
}

// Trap 20: when no port is left the search ends, and the packet is dropped by name.
func TestPortsOfAMasqueradedBackendRunOut(t *testing.T) {
	e := newEdge(t, bpf.Options{MasqueradeAll: true})
	e.root(1, model.UDP, model.IPv4, remotePod4)
	e.front(1, model.FrontendClusterIP, 0, "10.96.0.1:80")
	e.write(t)
	var last bpf.Verdict
	for i := range 60_000 {
		// Of a pod: of clients outside, who may be anyone, no more are remembered than have places.
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 40000).String()
		_, in := e.hook(e.plane.RunFromPod, segment{udp: true}.between(client, "10.96.0.1:80"))
		if last, _ = e.hook(e.plane.RunToUplink, segment{udp: true}.between(in.from, in.to)); last == bpf.Drop {
			break
		}
	}
	if got := drops(t, e.plane); last != bpf.Drop || got[model.ReasonPortsExhausted] != 1 || len(got) != 1 {
		t.Errorf("%v, drops %v", last, got)
	}
}

// Row 6: from outside, another port of a ClusterIP is refused and an unallocated address dropped.
// Row 8: an edge drops clients that are outside of the source ranges.
// Trap 39: from outside, a Local policy without a backend here drops the packet and doesn't refuse it.
// Trap 40: source ranges are held against the address that arrived, another node's pods' too, and the balancer's own
// passes.
func TestWhatAnEdgeDoesNotTake(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		id := model.SetID(10 * i)
		e.root(id+1, p, model.IPv4, remotePod4)
		e.front(id+1, model.FrontendClusterIP, 0, "10.96.0.1:80")
		e.front(id+1, model.FrontendLoadBalancer, model.ExternalLocal, "203.0.113.1:80")
		e.front(id+1, model.FrontendLoadBalancer, model.SourceRanges, "203.0.113.2:80")
		e.ranges(id+1, "198.51.100.0/25")
		e.root(id+2, p, model.IPv4)
		e.ownFront(id+2, model.MatchNodePort, 0, 30081)
	}
	e.frontKey(0, model.FrontendRefused, 0, model.FrontendKey{Addr: netip.MustParseAddr("10.96.0.1")})
	e.write(t)
	before := drops(t, e.plane)
	for _, c := range []struct {
		name, from, to string
		verdict        bpf.Verdict
		reason         model.DropReason
	}{
		{"a port that the Service doesn't have", outside4, "10.96.0.1:81", bpf.Refuse, model.ReasonWrongPort},
		{"an address that no Service has", outside4, "10.96.0.9:80", bpf.Drop, model.ReasonUnallocated},
		{"Local policy without a backend here", outside4, "203.0.113.1:80", bpf.Drop, model.ReasonNoLocalBackend},
		{"a client in the ranges", outside4, "203.0.113.2:80", bpf.Pass, 0},
		{"a client outside the ranges", "198.51.100.200:4000", "203.0.113.2:80", bpf.Drop, model.ReasonSourceRange},
		{"a pod of another node, outside the ranges", "10.2.0.9:4000", "203.0.113.2:80", bpf.Drop, model.ReasonSourceRange},
		{"the balancer's own address", "203.0.113.2:4000", "203.0.113.2:80", bpf.Pass, 0},
		{"no backends", outside4, edge4 + ":30081", bpf.Refuse, model.ReasonNoBackend},
		{"another port of the node", outside4, edge4 + ":22", bpf.Pass, 0},
		{"a pod, directly", outside4, localPod4, bpf.Pass, 0},
	} {
		for _, first := range []segment{{syn: true}, {udp: true}} {
			verdict, _ := e.hook(e.plane.RunFromUplink, first.between(c.from, c.to))
			after := drops(t, e.plane)
			if c.reason != 0 {
				before[c.reason]++
			}
			if diff := cmp.Diff(before, after); verdict != c.verdict || diff != "" {
				t.Errorf("%s: %v, want %v, drops (-want +got): %s", c.name, verdict, c.verdict, diff)
			}
			before = after
		}
	}
}

func TestPacketsAtUplinksOfNoServicePassUntouched(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	e.root(1, model.UDP, model.IPv4, localPod4)
	e.ownFront(1, model.MatchNodePort, 0, 30080)
	e.write(t)
	e.through(e.plane.RunFromUplink, e.plane.RunToPod, segment{udp: true}.between(outside4, edge4+":30080"))
	for name, s := range map[string]segment{
		"another node's pod to a pod": segment{ack: true, acked: 1, payload: 9}.between("10.2.0.9:80", "10.1.0.9:4000"),
		"the node's own":              segment{udp: true, payload: 9}.between("203.0.113.9:53", edge4+":50000"),
		"a backend's to another":      segment{udp: true, payload: 9}.between(localPod4, "198.51.100.8:40000"),
	} {
		frame := s.frame(t)
		for hook, run := range map[string]func([]byte, int) (bpf.Verdict, []byte, error){
			"from_uplink": e.plane.RunFromUplink, "to_uplink": e.plane.RunToUplink,
			"from_pod": e.plane.RunFromPod, "to_pod": e.plane.RunToPod,
		} {
			verdict, out, err := run(frame, 0)
			check(t, err)
			if diff := cmp.Diff(frame, out); verdict != bpf.Pass || diff != "" {
				t.Errorf("%s, %s: %v %s", name, hook, verdict, diff)
			}
		}
	}
	// And the flow that was there is still answered.
	from, to := e.through(e.plane.RunFromPod, e.plane.RunToUplink, segment{udp: true}.between(localPod4, outside4))
	wantEnds(t, "the answer", from, to, edge4+":30080", outside4)
}
