// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Row 8: who is in no source range of a load balancer is dropped before there is a packet, where XDP is on.
// Row 9: so is who dials a Service with policy Local that has no backend here.
func TestFramesOfWhoIsNotServedAreDropped(t *testing.T) {
	e := newEdge(t, bpf.Options{XDP: bpf.XDPGeneric})
	e.root(1, model.TCP, model.IPv4, remotePod4)
	e.root(2, model.TCP, model.IPv6, remotePod6)
	for id, addr := range map[model.SetID]string{1: "203.0.113.1:80", 2: "[2001:db8:113::1]:80"} {
		e.front(id, model.FrontendLoadBalancer, model.SourceRanges, addr)
		e.ownFront(id, model.MatchNodePort, model.ExternalLocal, 30080)
	}
	e.front(1, model.FrontendClusterIP, 0, "10.96.0.1:80")
	e.ranges(1, "198.51.100.128/25")
	e.ranges(2, "2001:db8:8::/48")
	e.write(t)
	syn := segment{syn: true}
	out4, out6 := syn.between(outside4, "203.0.113.1:80"), syn.between(outside6, "[2001:db8:113::1]:80")
	with := func(s segment, change func(*segment)) []byte { change(&s); return s.frame(t) }
	for _, c := range []struct {
		name  string
		frame []byte
		want  bpf.Verdict
	}{
		{"out of range", out4.frame(t), bpf.Drop},
		{"out of range, IPv6", out6.frame(t), bpf.Drop},
		{"in range", syn.between("198.51.100.130:4000", "203.0.113.1:80").frame(t), bpf.Pass},
		{"in range, IPv6", syn.between("[2001:db8:8::1]:4000", "[2001:db8:113::1]:80").frame(t), bpf.Pass},
		{"no local backend", syn.between(outside4, edge4+":30080").frame(t), bpf.Drop},
		{"no local backend, IPv6", syn.between(outside6, "["+edge6+"]:30080").frame(t), bpf.Drop},
		{"a pod's", syn.between("10.1.0.9:4000", "203.0.113.1:80").frame(t), bpf.Pass},
		{"to a ClusterIP", syn.between(outside4, "10.96.0.1:80").frame(t), bpf.Pass},
		{"to no Service", syn.between(outside4, edge4+":22").frame(t), bpf.Pass},
		{"amid a connection", segment{ack: true}.between(outside4, "203.0.113.1:80").frame(t), bpf.Pass},
		{"a VLAN's", tagged(out4.frame(t), 0x8100), bpf.Pass},
		{"with options", with(out4, func(s *segment) { s.v4Options = true }), bpf.Pass},
		{"with an extension header", with(out6, func(s *segment) { s.hopByHop = true }), bpf.Pass},
		{"a fragment", with(out4, func(s *segment) { s.moreFragments = true }), bpf.Pass},
		{"longer than it is", with(out4, func(s *segment) { s.wrongLength = true }), bpf.Pass},
		{"cut off", out4.frame(t)[:40], bpf.Pass},
	} {
		got, out, err := e.plane.RunFromWire(c.frame)
		check(t, err)
		if got != c.want || got == bpf.Pass && !bytes.Equal(out, c.frame) {
			t.Errorf("%s: %v, want %v\n%x\n%x", c.name, got, c.want, c.frame, out)
		}
	}
	want := map[model.DropReason]uint64{model.ReasonSourceRange: 2, model.ReasonNoLocalBackend: 2}
	if diff := cmp.Diff(want, drops(t, e.plane)); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}
