// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
)

// TestSegmentsOutOfWindowDoNoHarm lets a backend send what its connection doesn't expect.
//
// Row 21: a segment or a reset of the backend's that is far out of the window reaches the client as the Service's, so
// that the client never resets the backend's own address, and the connection goes on.
// Trap 13: a reset out of the window ends no flow.
func TestSegmentsOutOfWindowDoNoHarm(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	setChecksumOffload(t, f.client, "eth0", false)
	setChecksumOffload(t, f.backend, "eth0", false)
	client := newWire(t, f, f.client)
	server := wireAt(t, f, f.backend, f.backendPort)
	for service, pod := range map[string]string{service4: backend4 + ":8080", service6: "[" + backend6 + "]:8080"} {
		serve(t, f.backend, pod)
		f.client.Do(t, func() {
			network := "tcp4"
			if service == service6 {
				network = "tcp6"
			}
			conn := dialRaw(t, network, netip.MustParseAddrPort(service))
			defer conn.Close()
			ask(t, conn)
			for _, wrong := range []segment{
				{ack: true, seq: 1 << 30, acked: 1 << 29, payload: 77}, {rst: true, seq: 1 << 28}, {rst: true, ack: true, seq: 3 << 30, acked: 9},
			} {
				server.send(wrong.between(pod, conn.LocalAddr().String()))
				client.sees(service, wrong.seq)
				ask(t, conn)
			}
		})
	}
	if got := drops(t, f.plane); len(got) > 0 {
		t.Errorf("drops: %v", got)
	}
}

// sees waits for the TCP segment with a sequence number, which must come from a Service.
func (w *wire) sees(service string, seq uint32) {
	w.t.Helper()
	for range 50 {
		got := w.receive(netip.MustParseAddrPort(service).Addr().String())
		if tcp, ok := got.TransportLayer().(*layers.TCP); ok && tcp.Seq == seq {
			if got.from != service {
				w.t.Errorf("it came from %s, want %s", got.from, service)
			}
			return
		}
	}
	w.t.Errorf("no segment %d from %s", seq, service)
}
