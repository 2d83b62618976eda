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
	e.through(up.RunFromPod, up.RunToUplink, segment{syn: true, ack: true, acked: 2}.between(localPod4, outside4))
	e.through(up.RunFromUplink, up.RunToPod, segment{ack: true, seq: 2, acked: 1}.between(outside4, edge4+":30080"))
	e.through(up.RunFromUplink, up.RunToPod, segment{udp: true}.between("198.51.100.8:40000", edge4+":30080"))
	e.through(up.RunFromPod, up.RunToUplink, segment{udp: true}.between(localPod4, "198.51.100.8:40000"))
	e.idle(60)
	from, _ := e.through(up.RunFromPod, up.RunToUplink, segment{udp: true}.between(localPod4, "198.51.100.8:40000"))
	if from != edge4+":30080" {
		t.Errorf("a minute later the datagram's answer is from %s", from)
	}
	e.idle(61)
	from, to := e.through(up.RunFromUplink, up.RunToPod, segment{ack: true, seq: 2, acked: 1}.between(outside4, edge4+":30080"))
	wantEnds(t, "the connection two minutes later", from, to, outside4, localPod4)
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
