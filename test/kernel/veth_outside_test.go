// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// outskirts is two nodes and a client outside, each with the kernel's stack: client — node A — node B — pod. Node A has
// a pod too. Only node A has the programs; strict source checks are on everywhere.
type outskirts struct {
	client, a, b, podA, podB *testkit.NetNS
	plane                    *bpf.Dataplane
	*book
}

// The addresses: node A towards the client and towards node B, and the pods.
const (
	clientOut4, clientOut6 = "198.51.100.2", "2001:db8:7::2"
	aOut4, aOut6           = "198.51.100.1", "2001:db8:7::1"
	aIn4, aIn6             = "172.18.0.1", "2001:db8:18::1"
	podA4, podA6           = "10.1.0.2", "fd00:1::2"
	podB4, podB6           = "10.2.0.2", "fd00:2::2"
)

func pair(a4, a6 string) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(a4), 24), netip.PrefixFrom(netip.MustParseAddr(a6), 64)}
}

func (o *outskirts) routes(t testing.TB, ns *testkit.NetNS, to4, to6, by4, by6, name string) {
	t.Helper()
	ns.Route(t, netip.MustParsePrefix(to4), netip.MustParseAddr(by4), name)
	ns.Route(t, netip.MustParsePrefix(to6), netip.MustParseAddr(by6), name)
}

func newOutskirts(t testing.TB) *outskirts {
	t.Helper()
	testkit.NeedKernel(t)
	o := &outskirts{}
	for _, ns := range []**testkit.NetNS{&o.client, &o.a, &o.b, &o.podA, &o.podB} {
		*ns = testkit.NewNetNS(t)
		(*ns).Sysctl(t, "net/ipv4/ip_forward", "1")
		(*ns).Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
		(*ns).Sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
		(*ns).Up(t, "lo")
	}
	testkit.Veth(t, o.client, "eth0", pair(clientOut4, clientOut6), o.a, "out", pair(aOut4, aOut6))
	testkit.Veth(t, o.a, "in", pair(aIn4, aIn6), o.b, "eth0", pair("172.18.0.2", "2001:db8:18::2"))
	testkit.Veth(t, o.a, "pod", pair("10.1.0.1", "fd00:1::1"), o.podA, "eth0", pair(podA4, podA6))
	testkit.Veth(t, o.b, "pod", pair("10.2.0.1", "fd00:2::1"), o.podB, "eth0", pair(podB4, podB6))
	o.routes(t, o.client, "0.0.0.0/0", "::/0", aOut4, aOut6, "eth0")
	o.routes(t, o.podA, "0.0.0.0/0", "::/0", "10.1.0.1", "fd00:1::1", "eth0")
	o.routes(t, o.podB, "0.0.0.0/0", "::/0", "10.2.0.1", "fd00:2::1", "eth0")
	o.routes(t, o.a, "10.2.0.0/24", "fd00:2::/64", "172.18.0.2", "2001:db8:18::2", "in")
	o.routes(t, o.b, "10.1.0.0/24", "fd00:1::/64", aIn4, aIn6, "eth0")
	// Node B has no way to the client: what isn't masqueraded isn't answered.
	plane, err := bpf.Load(bpf.Options{Flows: 4096, Capacities: small})
	check(t, err)
	t.Cleanup(plane.Close)
	o.plane, o.book = plane, newBook(t, plane)
	o.settle(t)
	return o
}

// settle attaches the programs and tells them of the node.
func (o *outskirts) settle(t testing.TB) {
	t.Helper()
	address := func(a4, a6 string) abi.Uplink {
		return abi.Uplink{V4: netip.MustParseAddr(a4).As16(), V6: netip.MustParseAddr(a6).As16()}
	}
	out, in, pod := o.a.Index(t, "out"), o.a.Index(t, "in"), o.a.Index(t, "pod")
	check(t, o.plane.SetUplinks(map[int]abi.Uplink{
		int(abi.UplinkAny): address(aIn4, aIn6), out: address(aOut4, aOut6), in: address(aIn4, aIn6),
	}))
	locals := map[netip.Addr]uint8{}
	for _, a := range []string{aOut4, aOut6, aIn4, aIn6} {
		locals[netip.MustParseAddr(a)] = abi.LocalNodePort
	}
	check(t, o.plane.SetLocals(locals))
	o.a.Do(t, func() {
		check(t, o.plane.AttachUplink(out))
		check(t, o.plane.AttachUplink(in))
		check(t, o.plane.AttachPod(pod))
	})
	o.network(model.NetworkPods, "10.1.0.0/16")
	o.network(model.NetworkPods, "10.2.0.0/16")
	o.network(model.NetworkPods, "fd00::/32")
	o.network(model.NetworkServices, "10.96.0.0/16")
}

// tell answers on TCP and UDP at addr with addr and the client's address.
func tell(t testing.TB, ns *testkit.NetNS, addr string) {
	t.Helper()
	ns.Do(t, func() {
		tcp, err := net.Listen("tcp", addr)
		check(t, err)
		udp, err := net.ListenPacket("udp", addr)
		check(t, err)
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go func() {
			for {
				conn, err := tcp.Accept()
				if err != nil {
					return
				}
				go serveTCP(&oneConn{Conn: conn}, addr+" "+conn.RemoteAddr().String())
			}
		}()
		go func() {
			b := make([]byte, 64)
			for {
				_, client, err := udp.ReadFrom(b)
				if err != nil {
					return
				}
				udp.WriteTo([]byte(addr+" "+client.String()), client)
			}
		}()
	})
}

// oneConn is a listener of one connection.
type oneConn struct {
	net.Conn
	taken bool
}

func (o *oneConn) Accept() (net.Conn, error) {
	if o.taken {
		return nil, net.ErrClosed
	}
	o.taken = true
	return o.Conn, nil
}

func (o *oneConn) Addr() net.Addr { return o.LocalAddr() }
func (o *oneConn) Close() error   { return nil }

// answer dials from a namespace and returns who answered, and the address that the client was seen with.
func (o *outskirts) answer(t testing.TB, from *testkit.NetNS, network, to string) (who, seenAs string) {
	t.Helper()
	from.Do(t, func() {
		conn := dialRaw(t, network, netip.MustParseAddrPort(to))
		defer conn.Close()
		who, seenAs, _ = strings.Cut(ask(t, conn), " ")
	})
	return who, netip.MustParseAddrPort(seenAs).Addr().String()
}

// Row 7: a node with two interfaces serves a NodePort on the addresses of both.
// Row 8: a load balancer's address is served at an uplink.
// Trap 32: on a node with two uplinks and rp_filter on, answers leave as the node's stack expects them.
func TestServicesFromOutsideThroughTheStack(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		family, pick := model.IPv4, func(four, _ string) string { return four }
		if v6 {
			family, pick = model.IPv6, func(_, six string) string { return six }
		}
		at := func(four, six string, port string) string { return net.JoinHostPort(pick(four, six), port) }
		o := newOutskirts(t)
		for i, p := range []model.Protocol{model.TCP, model.UDP} {
			id := model.SetID(10 * (i + 1))
			o.root(id, p, family, at(podB4, podB6, "8080"))
			o.ownFront(id, model.MatchNodePort, 0, 30080)
			o.front(id, model.FrontendClusterIP, 0, at("10.96.0.1", "fd00:96::1", "80"))
			o.root(id+1, p, family, at(podA4, podA6, "8080"))
			o.part(id+2, id+1, model.ScopeLocal, "", at(podA4, podA6, "8080"))
			o.ownFront(id+1, model.MatchNodePort, 0, 30081)
			o.front(id+1, model.FrontendLoadBalancer, model.ExternalLocal, at("203.0.113.1", "2001:db8:113::1", "80"))
			o.front(id+1, model.FrontendClusterIP, 0, at("10.96.0.2", "fd00:96::2", "80"))
		}
		o.write(t)
		tell(t, o.podA, at(podA4, podA6, "8080"))
		tell(t, o.podB, at(podB4, podB6, "8080"))
		podA, podB := at(podA4, podA6, "8080"), at(podB4, podB6, "8080")
		client, inner := pick(clientOut4, clientOut6), pick(aIn4, aIn6)
		for _, c := range []struct {
			name         string
			from         *testkit.NetNS
			to, who, see string
		}{
			{"NodePort, backend on another node", o.client, at(aOut4, aOut6, "30080"), podB, inner},
			{"NodePort of the node's other address", o.client, at(aIn4, aIn6, "30080"), podB, inner},
			{"NodePort, backend on this node", o.client, at(aOut4, aOut6, "30081"), podA, client},
			{"load balancer, Local policy", o.client, at("203.0.113.1", "2001:db8:113::1", "80"), podA, client},
			{"ClusterIP from outside", o.client, at("10.96.0.1", "fd00:96::1", "80"), podB, inner},
			{"ClusterIP from a pod", o.podA, at("10.96.0.1", "fd00:96::1", "80"), podB, pick(podA4, podA6)},
			{"NodePort from a pod", o.podA, at(aOut4, aOut6, "30080"), podB, pick(podA4, podA6)},
			{"a pod to itself", o.podA, at("10.96.0.2", "fd00:96::2", "80"), podA, inner},
			{"another node's pod to a NodePort", o.podB, at(aIn4, aIn6, "30081"), podA, pick(podB4, podB6)},
			{"another node's pod to itself by a NodePort", o.podB, at(aIn4, aIn6, "30080"), podB, inner},
		} {
			for _, network := range []string{"tcp", "udp"} {
				network += pick("4", "6")
				if who, see := o.answer(t, c.from, network, c.to); who != c.who || see != c.see {
					t.Errorf("%s, %s: %s answered to %s, want %s to %s", network, c.name, who, see, c.who, c.see)
				}
			}
		}
		if got := drops(t, o.plane); len(got) > 0 {
			t.Errorf("drops: %v", got)
		}
	}
}

// Trap 20: hundreds of connections at once are masqueraded with a port each.
func TestManyConnectionsFromOutsideAtOnce(t *testing.T) {
	o := newOutskirts(t)
	o.root(1, model.TCP, model.IPv4, podB4+":8080")
	o.ownFront(1, model.MatchNodePort, 0, 30080)
	o.front(1, model.FrontendLoadBalancer, 0, "203.0.113.1:80")
	o.write(t)
	tell(t, o.podB, podB4+":8080")
	var conns []net.Conn
	o.client.Do(t, func() {
		for range 300 {
			for _, to := range []string{aOut4 + ":30080", "203.0.113.1:80"} {
				conns = append(conns, dialRaw(t, "tcp4", netip.MustParseAddrPort(to)))
			}
		}
	})
	seenAs := map[string]bool{}
	for _, conn := range conns {
		seenAs[ask(t, conn)] = true
		conn.Close()
	}
	if len(seenAs) != len(conns) {
		t.Errorf("%d connections were seen as %d", len(conns), len(seenAs))
	}
}
