// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// from opens a connection in a place, from a port that others may have too, until the test ends; set may prepare the
// socket, or be nil.
func (s *scene) from(t *testing.T, place, network string, port uint16, to netip.AddrPort, set func(fd int) error) net.Conn {
	t.Helper()
	at, err := s.Place(place)
	check(t, err)
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: int(port)}}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{Port: int(port)}
	}
	d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil && set != nil {
				err = set(int(fd))
			}
		})
		return errors.Join(failed, err)
	}
	var conn net.Conn
	check(t, space.OpenNamespace(at.Namespace).Do(func() error {
		conn, err = d.DialContext(t.Context(), network, to.String())
		return err
	}))
	if tcp, ok := conn.(*net.TCPConn); ok {
		check(t, tcp.SetLinger(0)) // the port is free at once
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// asked returns who answers on a connection, and whom it sees.
func asked(t *testing.T, conn net.Conn) (pod string, client netip.AddrPort) {
	t.Helper()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err := conn.Write([]byte("\n"))
	check(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%s → %s: %v", conn.LocalAddr(), conn.RemoteAddr(), err)
	}
	pod, seen, _ := strings.Cut(strings.TrimSpace(line), " ")
	return pod, netip.MustParseAddrPort(seen)
}

// farServices are those under policy Cluster whose pod is on the second node.
func farServices() (all []borderService) {
	for _, b := range borderServices() {
		if b.place == "far" && b.policy == "Cluster" {
			all = append(all, b)
		}
	}
	return all
}

// Row 16: two clients of one port, and one client of one port by two addresses of a Service, reach one backend of another
// node at once, in each way to forward; the clients are seen as who they are unless they are masqueraded.
// Trap 19: connections of one client port by two addresses of a Service to one backend of another node are told apart.
func TestClientsOfOnePortShareABackend(t *testing.T) {
	s := borderScene(t)
	port := uint16(21000)
	for _, b := range farServices() {
		for i, balancer := range b.balancers() {
			for _, network := range []string{"tcp", "udp"} {
				port++
				external := b.targets()[2+i]
				conns := []net.Conn{
					s.from(t, otherClient, network, port, balancer, nil),
					s.from(t, lab.Outside, network, port, balancer, nil),
					s.from(t, otherClient, network, port, external, nil),
				}
				seen := map[netip.AddrPort]bool{}
				for range 2 {
					for _, conn := range conns {
						pod, client := asked(t, conn)
						seen[client] = true
						kept := client.Addr() == netip.MustParseAddrPort(conn.LocalAddr().String()).Addr()
						if pod != "shop/far" || kept == (b.mode == "snat") {
							t.Errorf("%s: %s → %s reaches %s as %s", b.mode, conn.LocalAddr(), conn.RemoteAddr(), pod, client)
						}
					}
				}
				if len(seen) != len(conns) {
					t.Errorf("%s, %s: %d clients are seen as %v", b.mode, network, len(conns), seen)
				}
			}
		}
	}
}

// Row 16: one client of one port reaches one backend of another node by several Services at once, each with its own way to
// forward.
// Trap 19: the backend tells those apart, which all end at one port of its own.
func TestOnePortReachesABackendByManyServices(t *testing.T) {
	s := borderScene(t)
	port := uint16(21500)
	for i := range 2 { // IPv4, IPv6
		for _, network := range []string{"tcp", "udp"} {
			port++
			var conns []net.Conn
			for _, b := range farServices() {
				for _, to := range []netip.AddrPort{b.targets()[i], b.targets()[2+i], b.targets()[4+i]} {
					conns = append(conns, s.from(t, otherClient, network, port, to, nil))
				}
			}
			seen := map[netip.AddrPort]bool{}
			for range 2 {
				for _, conn := range conns {
					pod, client := asked(t, conn)
					if seen[client] = true; pod != "shop/far" {
						t.Errorf("%s → %s reaches %s as %s", conn.LocalAddr(), conn.RemoteAddr(), pod, client)
					}
				}
			}
			if len(seen) != len(conns) {
				t.Errorf("%s: %d connections are seen as %d: %v", network, len(conns), len(seen), seen)
			}
		}
	}
}

// pickyService is one with more rules, whose backends are chosen by a selector.
const pickyService = `
apiVersion: v1
kind: Service
metadata: {name: picky-%[1]s, namespace: shop, annotations: {deltaplane.io/forwarding: %[1]s}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {%[3]s}
  ports: [{name: tcp, port: 80, targetPort: %[4]d}, {name: udp, protocol: UDP, port: 80, targetPort: %[4]d}]
  %[5]s
status: {loadBalancer: {ingress: [{ip: 198.51.100.%[2]d}, {ip: "2001:db8:1::%[2]d"}]}}
---
`

// pickyNumber is that of the first picky Service's addresses.
const pickyNumber = 50

// picky adds such a Service of each mode until the test ends.
func (s *scene) picky(t *testing.T, selector string, port int, rules string) {
	t.Helper()
	var yaml strings.Builder
	for i, mode := range modes {
		fmt.Fprintf(&yaml, pickyService, mode, pickyNumber+i, selector, port, rules)
	}
	s.with(t, yaml.String())
}

// eachPicky calls do with each mode, address of its Service and protocol.
func eachPicky(do func(mode string, to netip.AddrPort, protocol string)) {
	for i, mode := range modes {
		for _, to := range balancers(pickyNumber + i) {
			for _, protocol := range []string{"tcp", "udp"} {
				do(mode, to, protocol)
			}
		}
	}
}

// droppedPort is the clients' of what is to be dropped, which no masquerading changes.
const droppedPort = 20999

// reaches probes and returns what came of it; what is to be dropped hasn't long.
func (s *scene) reaches(t *testing.T, from, via string, to netip.AddrPort, protocol string, want agent.Outcome) agent.Result {
	t.Helper()
	request := lab.ProbeRequest{From: from, Via: via, To: to.String(), Protocol: protocol, Timeout: patience}
	if want == agent.Timeout {
		request.SourcePort, request.Timeout = droppedPort, 100*time.Millisecond
	}
	report, err := s.Probe(t.Context(), request)
	check(t, err)
	if r := report.Results[0]; r.Outcome != want {
		t.Errorf("%s via %q to %s over %s: got %+v, want %s", from, via, to, protocol, r, want)
	}
	return report.Results[0]
}

// metBy captures what a pod gets until the test ends, and then fails it for what is from the port of what is to be dropped.
// So is seen what comes later than a probe waits.
func (s *scene) metBy(t *testing.T, pod string) {
	t.Helper()
	x := s.tap(t, pod)
	t.Cleanup(func() {
		for _, all := range x.passages(t, func(port uint16) bool { return port == droppedPort }) {
			t.Errorf("%s got what was to be dropped: %+v", pod, all)
		}
	})
}

// Row 8: source ranges are held against the client's own address before anything is done with it, in each way to forward.
// Trap 40: of two clients outside, one in the ranges, that one alone reaches a backend on another node, by any first node.
func TestSourceRangesSeeTheClientInEachWay(t *testing.T) {
	s := borderScene(t)
	s.picky(t, "at: far", 8080, `loadBalancerSourceRanges: [172.30.255.1/32, "fd00:172:30::ffff:1/128"]`)
	s.metBy(t, "shop/far")
	eachPicky(func(_ string, to netip.AddrPort, protocol string) {
		s.reaches(t, otherClient, "node/node-1", to, protocol, agent.Timeout)
		for _, via := range []string{"node/node-1", "node/node-2", "node/node-3"} {
			s.reaches(t, lab.Outside, via, to, protocol, agent.OK)
		}
	})
}

// Row 11: a client outside keeps its backend in each way to forward, also by another first node where its address gets there.
func TestAffinityHoldsInEachWay(t *testing.T) {
	s := borderScene(t)
	s.picky(t, "tier: web", 8080, "sessionAffinity: ClientIP")
	first := map[string]string{}
	for _, via := range []string{"node/node-3", "node/node-3", "node/node-1", "node/node-2"} {
		eachPicky(func(mode string, to netip.AddrPort, protocol string) {
			for _, client := range []string{lab.Outside, otherClient} {
				r := s.reaches(t, client, via, to, protocol, agent.OK)
				key := fmt.Sprint(mode, to, protocol, client)
				if mode == "snat" {
					key += via
				}
				if first[key] == "" {
					first[key] = r.Reached
				}
				if r.Reached != first[key] {
					t.Errorf("%s: %s to %s over %s reaches %s, and %s before", mode, client, to, protocol, r.Reached, first[key])
				}
			}
		})
	}
}

// Row 14: a process on another node's own network is reached as a pod is, and sees the client.
func TestBackendsOnTheHostNetworkSeeTheClient(t *testing.T) {
	s := borderScene(t)
	s.picky(t, "at: host", 9000, "")
	eachPicky(func(mode string, to netip.AddrPort, protocol string) {
		for _, via := range []string{"node/node-1", "node/node-2"} {
			r := s.reaches(t, lab.Outside, via, to, protocol, agent.OK)
			kept := r.ClientAddress == s.addressOf(lab.Outside, to.Addr()).String()
			if r.Reached != "shop/host" || kept == (mode == "snat" && via == "node/node-1") {
				t.Errorf("%s via %s to %s over %s: %+v", mode, via, to, protocol, r)
			}
		}
	})
}

// guarded is a pod that one outside client alone may reach.
const guarded = `
{apiVersion: v1, kind: Pod, metadata: {name: guarded, namespace: shop, labels: {at: guard}}, spec: {nodeName: node-2, containers: [{name: main, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guard, namespace: shop}
spec:
  podSelector: {matchLabels: {at: guard}}
  ingress: [{from: [{ipBlock: {cidr: 172.30.255.1/32}}, {ipBlock: {cidr: "fd00:172:30::ffff:1/128"}}]}]
---
`

// Row 14: a policy at the pod that allows one client's address lets that one in, by another node too, and none else; who is
// masqueraded isn't known there.
func TestPolicyAtThePodSeesTheClient(t *testing.T) {
	s := borderScene(t)
	s.with(t, guarded)
	s.metBy(t, "shop/guarded")
	s.picky(t, "at: guard", 8080, "")
	eachPicky(func(mode string, to netip.AddrPort, protocol string) {
		want := agent.OK
		if mode == "snat" {
			want = agent.Timeout
		}
		s.reaches(t, otherClient, "node/node-1", to, protocol, agent.Timeout)
		s.reaches(t, lab.Outside, "node/node-1", to, protocol, want)
		s.reaches(t, lab.Outside, "node/node-2", to, protocol, agent.OK)
	})
}
