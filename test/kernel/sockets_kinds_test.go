// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// both families and protocols of what a test does alike for all.
var dials = []struct {
	network string
	p       model.Protocol
	family  model.Family
	backend string
}{
	{"tcp4", model.TCP, model.IPv4, backend4 + ":8080"},
	{"udp4", model.UDP, model.IPv4, backend4 + ":8080"},
	{"tcp6", model.TCP, model.IPv6, "[" + backend6 + "]:8080"},
	{"udp6", model.UDP, model.IPv6, "[" + backend6 + "]:8080"},
}

// reach dials in a namespace and returns who answers, or the error. What is dialled has to be the peer.
func reach(t testing.TB, from *testkit.NetNS, network, to string) (who string, err error) {
	t.Helper()
	from.Do(t, func() {
		var conn net.Conn
		if conn, err = dialErr(network, netip.MustParseAddrPort(to)); err != nil {
			return
		}
		defer conn.Close()
		who = ask(t, conn)
		if got := conn.RemoteAddr().String(); got != to {
			t.Errorf("%s to %s shows the peer %s", network, to, got)
		}
	})
	return who, err
}

func wantReach(t testing.TB, from *testkit.NetNS, network, to, want string) {
	t.Helper()
	if who, err := reach(t, from, network, to); who != want {
		t.Errorf("%s to %s reaches %q (%v), want %q", network, to, who, err, want)
	}
}

func wantRefused(t testing.TB, from *testkit.NetNS, network, to string, want error) {
	t.Helper()
	if who, err := reach(t, from, network, to); !errors.Is(err, want) {
		t.Errorf("%s to %s: %v (%q), want %v", network, to, err, who, want)
	}
}

// bothServe lets the fabric's backend answer in both families.
func bothServe(t testing.TB, f *fabric) {
	t.Helper()
	serve(t, f.backend, backend4+":8080")
	serve(t, f.backend, "["+backend6+"]:8080")
}

// Row 7: sockets of pods and of the node reach a NodePort by the node's address, and the node's own by its loopback
// too.
// Row 8: sockets reach Services by externalIPs, load balancers' addresses and hostPorts.
func TestSocketsDialEachKindOfAddress(t *testing.T) {
	f := newPodNode(t)
	bothServe(t, f)
	nodeAddresses(t, f.plane)
	b := newBook(t, f.plane)
	own := map[model.Family]string{model.IPv4: node4, model.IPv6: node6}
	loopback := map[model.Family][]string{model.IPv4: {"127.0.0.1", "127.8.8.8"}, model.IPv6: {"::1"}}
	exact := map[model.Family][]string{
		model.IPv4: {"10.96.0.1:80", "198.51.100.1:80", "203.0.113.1:80"},
		model.IPv6: {"[fd00:96::1]:80", "[2001:db8:1::1]:80", "[2001:db8:2::1]:80"},
	}
	for i, d := range dials {
		set := model.SetID(i + 1)
		b.root(set, d.p, d.family, d.backend)
		for k, a := range exact[d.family] {
			b.front(set, []model.FrontendKind{model.FrontendClusterIP, model.FrontendExternalIP, model.FrontendLoadBalancer}[k], 0, a)
		}
		b.ownFront(set, model.MatchNodePort, 0, 30080)
		b.ownFront(set, model.MatchHostPort, 0, 8888)
		b.front(set, model.FrontendHostPort, 0, net.JoinHostPort(loopback[d.family][0], "8889"))
		b.front(set, model.FrontendHostPort, 0, net.JoinHostPort(own[d.family], "8889"))
		b.front(set, model.FrontendHostPort, 0, otherPort(d.backend))
	}
	b.write(t)
	for _, d := range dials {
		join := func(addr string, port int) string { return net.JoinHostPort(addr, fmt.Sprint(port)) }
		for _, from := range []*testkit.NetNS{f.client, f.node} {
			for _, to := range exact[d.family] {
				wantReach(t, from, d.network, to, d.backend)
			}
			wantReach(t, from, d.network, join(own[d.family], 30080), d.backend)
			wantReach(t, from, d.network, join(own[d.family], 8888), d.backend)
			wantReach(t, from, d.network, join(own[d.family], 8889), d.backend)
			if d.p == model.TCP { // a hostPort takes no address that isn't the node's
				wantRefused(t, from, d.network, otherPort(d.backend), syscall.ECONNREFUSED)
			}
		}
		for _, to := range loopback[d.family] {
			wantReach(t, f.node, d.network, join(to, 30080), d.backend)
			if d.p == model.TCP { // a pod's loopback is its own
				wantRefused(t, f.client, d.network, join(to, 30080), syscall.ECONNREFUSED)
				wantRefused(t, f.client, d.network, join(to, 8889), syscall.ECONNREFUSED)
			}
			wantReach(t, f.node, d.network, join(to, 8889), d.backend)
		}
		// An address that serves no NodePorts still has hostPorts.
		if d.family == model.IPv4 {
			wantReach(t, f.client, d.network, "10.1.1.1:8888", d.backend)
			if d.p == model.TCP {
				wantRefused(t, f.client, d.network, "10.1.1.1:30080", syscall.ECONNREFUSED)
			}
		}
	}
}

// otherPort returns another port of a backend's address, which the node doesn't have.
func otherPort(backend string) string {
	host, _, _ := net.SplitHostPort(backend)
	return net.JoinHostPort(host, "8089")
}

// Row 5: a socket is refused where no endpoint is, and told of a timeout where its policy leaves none.
// Row 6: a socket that dials another port of a ClusterIP is refused, and one that dials an unallocated address gets
// nowhere.
// Trap 25: what is refused says ECONNREFUSED and what is dropped ETIMEDOUT, both at once.
// Trap 39: a pod whose node has no local backend is told so by a timeout at once.
func TestSocketsAreRefusedOrDroppedAtOnce(t *testing.T) {
	f := newPodNode(t)
	b := newBook(t, f.plane)
	b.network(model.NetworkServices, "10.96.0.0/16")
	b.network(model.NetworkServices, "fd00:96::/112")
	addrs := map[model.Family][2]string{model.IPv4: {"10.96.0.1", "10.96.0.99"}, model.IPv6: {"fd00:96::1", "fd00:96::99"}}
	for i, d := range dials {
		set := model.SetID(i + 1)
		b.root(set, d.p, d.family)
		b.front(set, model.FrontendClusterIP, 0, net.JoinHostPort(addrs[d.family][0], "80"))
		b.frontKey(0, model.FrontendRefused, 0, model.FrontendKey{Addr: netip.MustParseAddr(addrs[d.family][0])})
		// All there is is elsewhere: the policy allows none.
		local := model.SetID(i + 11)
		b.root(local, d.p, d.family, d.backend)
		b.front(local, model.FrontendClusterIP, model.InternalLocal, net.JoinHostPort(addrs[d.family][0], "81"))
	}
	b.write(t)
	for _, d := range dials {
		for port, want := range map[string]error{"80": syscall.ECONNREFUSED, "81": syscall.ETIMEDOUT, "9": syscall.ECONNREFUSED} {
			wantRefused(t, f.client, d.network, net.JoinHostPort(addrs[d.family][0], port), want)
			wantRefused(t, f.node, d.network, net.JoinHostPort(addrs[d.family][0], port), want)
		}
		wantRefused(t, f.client, d.network, net.JoinHostPort(addrs[d.family][1], "80"), syscall.ETIMEDOUT)
	}
	got := drops(t, f.plane)
	for reason, want := range map[model.DropReason]uint64{
		model.ReasonNoBackend: 8, model.ReasonNoLocalBackend: 8, model.ReasonWrongPort: 8, model.ReasonUnallocated: 4,
	} {
		if got[reason] != want {
			t.Errorf("%v: %d drops, want %d", reason, got[reason], want)
		}
	}
}

// Packets alone show a pod's true address, so its dial is left to them; the node's own is judged by its address.
//
// Row 8: source ranges hold for the node's own sockets by its address and for pods by theirs.
// Trap 40: a pod's dial to an address with source ranges is left to its packets, which show the pod's true address.
func TestSourceRangesAreKeptBySocketsOfTheNodeAndPacketsOfPods(t *testing.T) {
	f := newPodNode(t)
	bothServe(t, f)
	nodeAddresses(t, f.plane)
	b := newBook(t, f.plane)
	lb := map[model.Family]string{model.IPv4: "203.0.113.1:80", model.IPv6: "[2001:db8:2::1]:80"}
	for i, d := range dials {
		set := model.SetID(i + 1)
		b.root(set, d.p, d.family, d.backend)
		b.front(set, model.FrontendLoadBalancer, model.SourceRanges, lb[d.family])
		b.ranges(set, "192.0.2.0/24", "2001:db8:9::/48")
	}
	b.write(t)
	for _, d := range dials {
		wantRefused(t, f.node, d.network, lb[d.family], syscall.ETIMEDOUT)
	}
	for i := range dials {
		b.ranges(model.SetID(i+1), node4+"/32", node6+"/128", client4+"/32", client6+"/128")
	}
	b.write(t)
	for _, d := range dials {
		wantReach(t, f.node, d.network, lb[d.family], d.backend)
		wantReach(t, f.client, d.network, lb[d.family], d.backend)
	}
}
