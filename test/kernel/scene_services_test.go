// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
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

// market is two nodes, a pod that dials, and a pod on the other node that all Services lead to; the Services come later.
var market = twoNodes + quay("stall", "node-2", "ready")

// Services come, change and go, and after each change every place finds what is explained.
//
// Row 6: the address of a Service that is gone drops, until another Service has it.
// Row 7: a NodePort opens and closes with the Service's type, by one protocol or both, and two Services may swap theirs at
// once.
// Row 8: source ranges and externalIPs that change hold for the next connection.
// Row 16: one client port reaches one backend through two Services at once, by TCP and UDP, as a pod by packets alone and
// from outside, and each is answered by the one that it dialled.
// Trap 19: two Services of one backend and one client port are told apart.
// Trap 41: a Service that is made again with the same address, and NodePorts that are swapped, lead to the new ones.
func TestServicesComeChangeAndGo(t *testing.T) {
	t.Parallel()
	s := newScene(t, "market", market)
	places := []string{"shop/client", rawPod + "shop/client", "node/node-1", "outside"}
	step := func(name, yaml string, ways ...way) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if yaml != "" {
				s.apply(t, yaml)
			}
			s.expect(t, places, ways...)
		})
	}
	at := func(node string, outcome agent.Outcome, reached string, proto string) way {
		return way{to: node, proto: proto, outcome: outcome, reached: reached}
	}
	const address, stall = "10.96.0.77:80 [fd00:10:96::77]:80", "shop/stall"
	const fixed = `clusterIPs: [10.96.0.77, "fd00:10:96::77"], `
	two := openPort("first", fixed+"selector: {app: quay}", 0) + openPort("second", "selector: {app: none}", 0)
	step("no Service yet", "", at(address, agent.Timeout, "", ""))
	step("two come", two, at(address, agent.OK, stall, ""), at("shop/second:80", agent.Refused, "", ""))
	t.Run("one goes", func(t *testing.T) {
		s.remove(t, "Service", "first")
		s.expect(t, places, at(address, agent.Timeout, "", ""))
	})
	step("another has its address", openPort("third", fixed+"selector: {app: none}", 0), at(address, agent.Refused, "", ""))
	t.Run("it is made again", func(t *testing.T) {
		s.remove(t, "Service", "third")
		s.apply(t, openPort("first", fixed+"selector: {app: quay}", 0))
		s.expect(t, places, at(address, agent.OK, stall, ""))
	})
	oneProtocol := strings.Replace(openPort("first", fixed+"type: NodePort, selector: {app: quay}", 30095), ", nodePort: 30095}]", "}]", 1)
	oneProtocol = strings.Replace(oneProtocol, ", {name: u, port: 80, protocol: UDP, targetPort: 8080}", "", 1)
	step("a NodePort by TCP", oneProtocol, at("node/node-1:30095", agent.OK, stall, "tcp"), at("node/node-1:30095", agent.Refused, "", "udp"))
	both := openPort("first", fixed+"type: NodePort, selector: {app: quay}", 30095) + openPort("second", "type: NodePort, selector: {app: none}", 30096)
	step("by both, and another Service", both, at("node/node-1:30095 node/node-2:30095", agent.OK, stall, ""), at("node/node-1:30096", agent.Refused, "", ""))
	swapped := strings.NewReplacer("30095", "30096", "30096", "30095").Replace(both)
	step("swapped", swapped, at("node/node-1:30096 node/node-2:30096", agent.OK, stall, ""), at("node/node-1:30095", agent.Refused, "", ""))
	step("closed", two, at("node/node-1:30095 node/node-1:30096", agent.Refused, "", ""), at(address, agent.OK, stall, ""))
	step("by a name outside", "apiVersion: v1\nkind: Service\nmetadata: {name: second, namespace: shop}\nspec: {type: ExternalName, externalName: example.org}\n---\n",
		at(address, agent.OK, stall, ""))
	const balanced = "\nstatus: {loadBalancer: {ingress: [{ip: 198.51.100.95}, {ip: \"2001:db8:1::95\"}]}}\n---\n"
	lb := func(more string) string {
		return strings.TrimSuffix(openPort("first", fixed+"type: LoadBalancer, selector: {app: quay}"+more, 0), "\n---\n") + balanced
	}
	const lbAt = "198.51.100.95:80 [2001:db8:1::95]:80"
	step("a load balancer", lb(""), at(lbAt, agent.OK, stall, ""))
	step("its ranges are others'", lb(", loadBalancerSourceRanges: [192.0.2.0/24, \"2001:db8:9::/48\"]"), at(lbAt, agent.Timeout, "", ""), at(address, agent.OK, stall, ""))
	step("its ranges are everyone's", lb(", loadBalancerSourceRanges: [0.0.0.0/0, \"::/0\"], externalIPs: [192.0.2.95, \"2001:db8:2::95\"]"),
		at(lbAt+" 192.0.2.95:80 [2001:db8:2::95]:80", agent.OK, stall, ""))
	t.Run("two at once", func(t *testing.T) {
		bothAnswer(t, s, "shop/client", "10.96.0.77:80", "198.51.100.95:80", "192.0.2.95:80")
		bothAnswer(t, s, "shop/client", "[fd00:10:96::77]:80", "[2001:db8:1::95]:80", "[2001:db8:2::95]:80")
		bothAnswer(t, s, "outside", "198.51.100.95:80", "192.0.2.95:80")
		bothAnswer(t, s, "outside", "[2001:db8:1::95]:80", "[2001:db8:2::95]:80")
	})
	t.Run("two sockets at once", func(t *testing.T) {
		bothStream(t, s, "10.96.0.77:80", "192.0.2.95:80")
		bothStream(t, s, "[fd00:10:96::77]:80", "[2001:db8:2::95]:80")
	})
}

// bothAnswer connects one port of a place, whose sockets no hook sees, to several addresses at once, and asks all of them
// twice: an answer that came by another's name would reach no socket.
func bothAnswer(t *testing.T, s *scene, from string, addresses ...string) {
	t.Helper()
	place, err := s.Place(from)
	check(t, err)
	for _, network := range []string{"tcp", "udp"} {
		var conns []net.Conn
		check(t, space.OpenNamespace(place.Namespace).Do(func() error {
			for _, to := range addresses {
				conn, err := dialFromPort(network, 45000, netip.MustParseAddrPort(to))
				if err != nil {
					return fmt.Errorf("%s to %s: %w", network, to, err)
				}
				conns = append(conns, conn)
			}
			return nil
		}))
		for range 2 {
			for i, conn := range conns {
				check(t, conn.SetDeadline(time.Now().Add(patience)))
				_, err := conn.Write([]byte("\n"))
				check(t, err)
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil || !strings.HasPrefix(line, "shop/stall ") {
					t.Errorf("%s from %s to %s: %q, %v", network, from, addresses[i], line, err)
				}
			}
		}
		for _, conn := range conns {
			conn.Close()
		}
	}
}

// bothStream does the same with sockets of a pod that the hooks see.
func bothStream(t *testing.T, s *scene, addresses ...string) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		reports := make(chan *lab.ProbeReport)
		for _, to := range addresses {
			go func() {
				report, err := s.Probe(t.Context(), lab.ProbeRequest{
					From: "shop/client", To: to, Protocol: protocol, SourcePort: 45001, Count: 10, Stream: true, Interval: 20 * time.Millisecond,
				})
				if err != nil {
					t.Error(err)
				}
				reports <- report
			}()
		}
		for range addresses {
			report := <-reports
			for _, r := range report.Results {
				if r.Outcome != agent.OK || r.Reached != "shop/stall" {
					t.Errorf("%s to %s: %+v", protocol, report.To, r)
				}
			}
		}
	}
}

// dialFromPort connects a socket that shares its port with others.
func dialFromPort(network string, port int, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		if err != nil {
			return err
		}
		return failed
	}}
	dialer.SetMultipathTCP(false)
	dialer.LocalAddr = &net.TCPAddr{Port: port}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{Port: port}
	}
	return dialer.Dial(network, to.String())
}
