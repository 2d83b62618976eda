// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// forwardings are the ways to a backend on another node.
var forwardings = map[string]model.FrontendFlags{
	"tunnel": model.ForwardTunnel, "dsr": model.ForwardDSR, "snat": 0,
}

// echoOnce gives back what the first connection to addr sends.
func echoOnce(t testing.TB, ns *testkit.NetNS, addr string) {
	t.Helper()
	ns.Do(t, func() {
		listener, err := net.Listen("tcp", addr)
		check(t, err)
		t.Cleanup(func() { listener.Close() })
		go func() {
			conn, err := listener.Accept()
			listener.Close()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.Copy(conn, conn)
		}()
	})
}

// sendAndCompare sends bulk data to an echo and compares what comes back.
func sendAndCompare(t testing.TB, from *testkit.NetNS, to string) error {
	t.Helper()
	data := make([]byte, 256<<10)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	var failed error
	from.Do(t, func() {
		conn, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			failed = err
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		go func() {
			conn.Write(data)
			conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, data) {
			failed = fmt.Errorf("%d of %d bytes came back: %w", len(got), len(data), err)
		}
	})
	return failed
}

// Row 14: bulk data of a client outside passes in both directions, though what wraps it for the backend's node needs
// room that the links between have not.
// Row 15: so it does where the backend's node answers itself.
// Trap 8: segments that the kernel still takes for one packet are wrapped and taken out, each in its own size.
// Trap 10: how long each of them will be decides, not how long they are together.
// Trap 11: client and pod are told the MTU that is left within, and send less, over IPv4 and IPv6, whichever of the two
// joins the nodes.
func TestBulkDataPassesWrapped(t *testing.T) {
	e := newEstate(t, 2, true, true)
	a, b := e.nodes[0], e.nodes[1]
	for mode, flags := range forwardings {
		for _, over := range []model.Family{model.IPv4, model.IPv6} {
			e.put(t, flags, over)
			e.forgetMTUs(t)
			toldByA, toldByB := drops(t, a.plane)[model.ReasonTooBig], drops(t, b.plane)[model.ReasonTooBig]
			for _, v6 := range []bool{false, true} {
				echoOnce(t, b.pod, b.podPort(v6))
				if err := sendAndCompare(t, e.client, estateVIP(v6)); err != nil {
					t.Errorf("%s over %v to %s: %v; drops at A %v, at B %v", mode, over, estateVIP(v6), err, drops(t, a.plane), drops(t, b.plane))
				}
			}
			toldByA, toldByB = drops(t, a.plane)[model.ReasonTooBig]-toldByA, drops(t, b.plane)[model.ReasonTooBig]-toldByB
			if (toldByA > 0) != (mode != "snat") || (toldByB > 0) != (mode == "tunnel") {
				t.Errorf("%s over %v: node A told %d times of a packet too big, node B %d times", mode, over, toldByA, toldByB)
			}
		}
	}
	for _, w := range e.nodes {
		if got, want := w.ofServices(t, model.ReasonTooBig), drops(t, w.plane)[model.ReasonTooBig]; got != want {
			t.Errorf("node %d: %d of %d packets that were too big are a Service's", w.number, got, want)
		}
	}
}

// ofServices is how many drops for a reason are counted as a Service's.
func (s *site) ofServices(t testing.TB, reason model.DropReason) (sum uint64) {
	t.Helper()
	counts, _, err := s.plane.ServiceCounts()
	check(t, err)
	for key, n := range counts {
		if key.Reason == uint8(reason) {
			sum += n
		}
	}
	return sum
}
