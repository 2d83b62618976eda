// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Row 14: a client outside is seen with its own address by a pod on another node than the one that it reached, at a load
// balancer's address and a NodePort, over IPv4 and IPv6, whichever of them the nodes reach each other by.
// Trap 32: answers come through the first node, with rp_filter on.
func TestClientsOutsideKeepTheirAddress(t *testing.T) {
	t.Parallel()
	for _, under := range []struct {
		name   string
		v4, v6 bool
	}{{"IPv4", true, false}, {"IPv6", false, true}} {
		for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
			t.Run(fmt.Sprint(mode, " over ", under.name), func(t *testing.T) {
				e := newEstate(t, 2, under.v4, under.v6)
				b := e.nodes[1]
				e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
				e.lead(t, e.nodes[0])
				for _, v6 := range []bool{false, true} {
					pod, node := b.podPort(v6), e.nodes[0].addr(v6)
					tell(t, b.pod, pod)
					for _, network := range []string{"tcp", "udp"} {
						network += either(v6, "4", "6")
						for _, to := range []string{estateVIP(v6), net.JoinHostPort(node, "30080")} {
							if who, see := e.asks(t, network, to); who != pod || see != clientAddr(v6) {
								t.Errorf("%s %s: %s answered to %s, want %s to %s", network, to, who, see, pod, clientAddr(v6))
							}
						}
					}
				}
				e.checkDrops(t)
			})
		}
	}
}

// asksOn asks over a connection that goes on.
func asksOn(t *testing.T, conn net.Conn, when, want string) {
	t.Helper()
	if got := ask(t, conn); got != want {
		t.Errorf("%s: %q answered, want %q", when, got, want)
	}
}

// Row 14: connections and datagrams go on when the fabric brings them to another first node, to the backend's own, and back.
// Row 15: so they do where the backend's node answers by itself.
func TestConnectionsSurviveAnotherFirstNode(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e := newEstate(t, 3, true, true)
		b := e.nodes[1]
		e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
		for _, v6 := range []bool{false, true} {
			pod := b.podPort(v6)
			tell(t, b.pod, pod)
			for _, network := range []string{"tcp", "udp"} {
				e.lead(t, e.nodes[0])
				var conn net.Conn
				e.client.Do(t, func() { conn = dialRaw(t, network+either(v6, "4", "6"), netip.MustParseAddrPort(estateVIP(v6))) })
				want := pod + " " + conn.LocalAddr().String()
				asksOn(t, conn, network+" by the first node", want)
				for _, to := range []int{2, 1, 0, 1, 2} {
					e.lead(t, e.nodes[to])
					asksOn(t, conn, fmt.Sprintf("%s by node %d", network, to+1), want)
				}
				check(t, conn.Close())
			}
		}
		e.checkDrops(t)
	}
}

// Row 14: a pod in its node's own network is reached with the client's address, too.
func TestClientsOutsideReachProcessesOfANode(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e := newEstate(t, 2, true, true)
		b := e.nodes[1]
		e.serve(t, mode, func(v6 bool) (string, int) { return b.addr(v6), b.number })
		e.lead(t, e.nodes[0])
		for _, v6 := range []bool{false, true} {
			process := net.JoinHostPort(b.addr(v6), "8080")
			tell(t, b.NetNS, process)
			for _, network := range []string{"tcp", "udp"} {
				if who, see := e.asks(t, network+either(v6, "4", "6"), estateVIP(v6)); who != process || see != clientAddr(v6) {
					t.Errorf("%v, %s: %s answered to %s, want %s to %s", mode, network, who, see, process, clientAddr(v6))
				}
			}
		}
		e.checkDrops(t)
	}
}

// Trap 8: packets of many segments go wrapped, and come out whole.
func TestBulkDataArrivesWholeFromAnotherNode(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e := newEstate(t, 2, true, true)
		b := e.nodes[1]
		e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
		e.lead(t, e.nodes[0])
		for _, v6 := range []bool{false, true} {
			for _, offload := range []bool{true, false} {
				setChecksumOffload(t, e.client, "eth0", offload)
				setChecksumOffload(t, b.pod, "eth0", offload)
				if got, want := e.mirrors(t, b, v6), sha256.Sum256(bulk()); got != want {
					t.Errorf("%v, IPv6 %v, checksum offload %v: other data came back", mode, v6, offload)
				}
			}
		}
	}
}

// bulk is enough for segmentation offload to make packets of many segments.
func bulk() []byte {
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	return data
}

// mirrors sends bulk data to a pod that sends it back, and returns the sum of what came back.
func (e *estate) mirrors(t *testing.T, of *site, v6 bool) [32]byte {
	t.Helper()
	var listener net.Listener
	of.pod.Do(t, func() {
		var err error
		listener, err = net.Listen("tcp", net.JoinHostPort(of.podAddr(v6), "8080"))
		check(t, err)
	})
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	var conn net.Conn
	e.client.Do(t, func() { conn = dialRaw(t, "tcp"+either(v6, "4", "6"), netip.MustParseAddrPort(estateVIP(v6))) })
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	go func() {
		conn.Write(bulk())
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	check(t, err)
	return sha256.Sum256(got)
}
