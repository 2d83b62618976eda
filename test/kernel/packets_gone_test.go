// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// removeBackendAt takes a backend out of a Service's set and tables.
func removeBackendAt(t testing.TB, plane *bpf.Dataplane, service testkit.Service, at string) {
	t.Helper()
	for id, b := range service.Backends {
		if b.String() == at {
			delete(service.Backends, id)
			testkit.Put(t, plane, service)
			testkit.RemoveBackend(t, plane, id)
		}
	}
}

// Row 2: datagrams that are translated per packet move at once.
func TestDatagramsMoveAtOnceWhenTheirBackendGoes(t *testing.T) {
	service := manyBackends(model.UDP, 3)
	plane := newPlane(t, service)
	datagram := segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", udp: true, payload: 5}
	_, first := fromPod(t, plane, datagram)
	removeBackendAt(t, plane, service, first.to)
	verdict, second := fromPod(t, plane, datagram)
	if verdict != bpf.Pass || second.to == first.to {
		t.Fatalf("%v to %s after %s", verdict, second.to, first.to)
	}
	for range 10 {
		if _, got := fromPod(t, plane, datagram); got.to != second.to {
			t.Errorf("to %s after %s", got.to, second.to)
		}
	}
}

// Row 3: a connection that is translated per packet is reset within a second when its backend is gone.
func TestConnectionIsResetWithinASecondWhenItsBackendGoes(t *testing.T) {
	service := manyBackends(model.TCP, 3)
	plane := newPlane(t, service)
	segments := segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", syn: true}
	_, first := fromPod(t, plane, segments)
	segments.syn, segments.ack, segments.acked = false, true, 700
	removeBackendAt(t, plane, service, first.to)
	check(t, plane.PassTime(1))
	verdict, got := fromPod(t, plane, segments)
	if verdict != bpf.Refuse || got.from != "10.96.0.1:80" {
		t.Fatalf("%v from %s, want a reset from the Service", verdict, got.from)
	}
	fromPod(t, plane, segments)
	want := map[model.DropReason]uint64{model.ReasonBackendGone: 1, model.ReasonNoFlow: 1}
	if diff := cmp.Diff(want, drops(t, plane)); diff != "" {
		t.Errorf("drops (-want +got): %s", diff)
	}
}

// Row 21: a segment of no known connection to a Service is answered with a reset from the Service.
// Trap 14: a segment in the middle of nothing is never sent to a backend by chance.
func TestSegmentOfNoConnectionIsReset(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	for name, packet := range map[string]segment{
		"data":     {from: "10.1.0.9:40000", to: "10.96.0.1:80", ack: true, acked: 5, payload: 3},
		"SYN, ACK": {from: "10.1.0.9:40001", to: "10.96.0.1:80", syn: true, ack: true, acked: 5},
		"FIN":      {from: "[fd00:1::9]:40000", to: "[fd00:96::1]:80", fin: true, ack: true, acked: 5},
	} {
		if verdict, got := fromPod(t, plane, packet); verdict != bpf.Refuse || got.from != packet.to {
			t.Errorf("%s: %v from %s", name, verdict, got.from)
		}
	}
	if got := drops(t, plane)[model.ReasonNoFlow]; got != 3 {
		t.Errorf("counted %d of 3", got)
	}
}
