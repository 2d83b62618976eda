// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// dial connects from the client to the load balancer's address over TCP.
func (e *estate) dial(t testing.TB, v6 bool) net.Conn {
	t.Helper()
	var conn net.Conn
	e.client.Do(t, func() { conn = dialRaw(t, "tcp"+either(v6, "4", "6"), netip.MustParseAddrPort(estateVIP(v6))) })
	t.Cleanup(func() { conn.Close() })
	return conn
}

// endsByReset sends on a connection until its end is told, and fails the test if it isn't told by a RST. The kernel tells
// that once, to who writes or to who reads.
func endsByReset(t *testing.T, conn net.Conn, when string) {
	t.Helper()
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		read <- err
	}()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	var told []error
	testkit.Eventually(t, patience, func() bool {
		if _, err := conn.Write([]byte("who")); err != nil {
			told = append(told, err)
		}
		select {
		case err := <-read:
			told = append(told, err)
			return true
		default:
			return false
		}
	})
	if err := errors.Join(told...); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: the client was told %v, want a RST", when, err)
	}
}

// Row 3: a connection to a backend of another node that is gone ends by a RST, whichever of the nodes knows first, and one
// to a backend that terminates goes on.
func TestConnectionsToGoneBackendsOfOtherNodesEnd(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		for _, c := range []struct {
			name string
			node int
		}{{"the first node", 0}, {"the backend's node", 1}} {
			e := newEstate(t, 2, true, true)
			b := e.nodes[1]
			e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
			e.lead(t, e.nodes[0])
			for i, v6 := range []bool{false, true} {
				tell(t, b.pod, b.podPort(v6))
				id := model.SetID(1 + i)
				conn := e.dial(t, v6)
				ask(t, conn)
				for _, s := range e.nodes {
					s.terminate(model.BackendID(100*int(id)), id, false)
					s.write(t)
				}
				ask(t, conn)
				s := e.nodes[c.node]
				s.remove(model.BackendID(100*int(id)), id)
				s.write(t)
				endsByReset(t, conn, c.name+" knows")
			}
		}
	}
}

// Row 5: a segment of a connection that the backend's node knows nothing of is answered by a RST, through the first node.
func TestUnknownConnectionsOfOtherNodesAreReset(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e := newEstate(t, 2, true, true)
		b := e.nodes[1]
		e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
		e.lead(t, e.nodes[0])
		for _, v6 := range []bool{false, true} {
			tell(t, b.pod, b.podPort(v6))
			conn := e.dial(t, v6)
			ask(t, conn)
			b.forgetFlows(t)
			endsByReset(t, conn, fmt.Sprint("mode ", mode))
		}
		if got := drops(t, b.plane); got[model.ReasonNoFlow] == 0 || len(got) > 1 {
			t.Errorf("the backend's node dropped %v, want segments of no flow alone", got)
		}
	}
}

// Row 14: a client breaks its connection off just as the fabric brings it to another first node: the backend learns of it.
func TestResetByAnotherFirstNodeArrives(t *testing.T) {
	t.Parallel()
	for _, mode := range []model.FrontendFlags{model.ForwardTunnel, model.ForwardDSR} {
		e := newEstate(t, 3, true, true)
		b := e.nodes[1]
		e.serve(t, mode, func(v6 bool) (string, int) { return b.podAddr(v6), b.number })
		for _, v6 := range []bool{false, true} {
			e.lead(t, e.nodes[0])
			var l net.Listener
			b.pod.Do(t, func() { l = must(net.Listen("tcp", b.podPort(v6)))(t) })
			conn := e.dial(t, v6)
			check(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
			accepted := must(l.Accept())(t)
			e.lead(t, e.nodes[2])
			check(t, conn.(*net.TCPConn).SetLinger(0))
			check(t, conn.Close())
			check(t, accepted.SetDeadline(time.Now().Add(patience)))
			if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the backend was told %v, want a RST", err)
			}
			check(t, accepted.Close())
			check(t, l.Close())
		}
	}
}

// forgetFlows sweeps all flows of the node away, however new they are.
func (s *site) forgetFlows(t testing.TB) {
	t.Helper()
	now, err := bpf.NowSeconds()
	check(t, err)
	_, err = s.plane.Sweep(t.Context(), bpf.Timeouts{}, now+1000)
	check(t, err)
}
