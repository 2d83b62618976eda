// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// TestIdleConnectionFromOutsideToALocalBackendIsKept: it would be masqueraded if it left by an uplink, which it never
// does. What is noted for that case says nothing about how the flow stands.
//
// Row 21: a connection that idles for hours goes on, wherever its backend is.
func TestIdleConnectionFromOutsideToALocalBackendIsKept(t *testing.T) {
	e := newEdge(t, bpf.Options{})
	e.root(1, model.TCP, model.IPv4, localPod4)
	e.ownFront(1, model.MatchNodePort, 0, 30080)
	e.root(2, model.UDP, model.IPv4, localPod4)
	e.ownFront(2, model.MatchNodePort, 0, 30080)
	e.write(t)
	up := e.plane
	e.through(up.RunFromUplink, up.RunToPod, segment{syn: true, seq: 1}.between(outside4, edge4+":30080"))
	e.through(up.RunFromPod, up.RunToUplink, segment{syn: true, ack: true, seq: 700, acked: 2}.between(localPod4, outside4))
	e.through(up.RunFromUplink, up.RunToPod, segment{ack: true, seq: 2, acked: 701}.between(outside4, edge4+":30080"))
	e.through(up.RunFromUplink, up.RunToPod, segment{udp: true}.between("198.51.100.8:40000", edge4+":30080"))
	e.through(up.RunFromPod, up.RunToUplink, segment{udp: true}.between(localPod4, "198.51.100.8:40000"))
	e.idle(60)
	from, _ := e.through(up.RunFromPod, up.RunToUplink, segment{udp: true}.between(localPod4, "198.51.100.8:40000"))
	if from != edge4+":30080" {
		t.Errorf("a minute later the datagram's answer is from %s", from)
	}
	e.idle(61)
	from, to := e.through(up.RunFromUplink, up.RunToPod, segment{ack: true, seq: 2, acked: 701}.between(outside4, edge4+":30080"))
	wantEnds(t, "the connection two minutes later", from, to, outside4, localPod4)
}

// TestSYNAmidAConnectionIsItsBackendsToAnswer: who knows a client's address and guesses its port must not be able to
// end its connection by a forged SYN.
//
// Trap 12: a SYN from a port in use stays with the connection, and begins a new one once that is over.
func TestSYNAmidAConnectionIsItsBackendsToAnswer(t *testing.T) {
	plane := newPlane(t, manyBackends(model.TCP, 50))
	const client, service = "10.1.0.9:40000", "10.96.0.1:80"
	_, first := fromPod(t, plane, segment{from: client, to: service, syn: true, seq: 5})
	toPod(t, plane, segment{from: first.to, to: client, syn: true, ack: true, seq: 700, acked: 6})
	fromPod(t, plane, segment{from: client, to: service, ack: true, seq: 6, acked: 701})
	for i := range 20 {
		if _, forged := fromPod(t, plane, segment{from: client, to: service, syn: true, seq: uint32(9000 + i)}); forged.to != first.to {
			t.Fatalf("a SYN amid the connection to %s reached %s", first.to, forged.to)
		}
	}
	if _, got := fromPod(t, plane, segment{from: client, to: service, ack: true, seq: 6, acked: 701}); got.to != first.to {
		t.Errorf("the connection goes on to %s, it was to %s", got.to, first.to)
	}
	others := map[string]bool{}
	for i := range 20 {
		// The client that knows nothing of it answers the backend's challenge, and dials again.
		fromPod(t, plane, segment{from: client, to: service, rst: true, seq: 6})
		_, got := fromPod(t, plane, segment{from: client, to: service, syn: true, seq: uint32(100 + i)})
		others[got.to] = true
	}
	if len(others) < 5 {
		t.Errorf("20 new connections reached only %v", others)
	}
}

// idle lets seconds pass without a packet, at the end of which flows are swept.
func (e *edge) idle(seconds uint32) {
	e.t.Helper()
	check(e.t, e.plane.PassTime(seconds))
	now, err := bpf.NowSeconds()
	check(e.t, err)
	_, err = e.plane.Sweep(e.t.Context(), bpf.DefaultTimeouts, now)
	check(e.t, err)
}
