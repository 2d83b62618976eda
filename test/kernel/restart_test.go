// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestRestartKeepsSockets goes through a connection's and a datagram socket's life while user space is there, gone,
// and there again.
//
// Row 24: connections and datagram sockets live through the end and the start of the programmer.
//
// Promise P4: sockets live through the end and the start of the programmer.
func TestRestartKeepsSockets(t *testing.T) {
	testkit.NeedKernel(t)
	options := bpf.Options{PinDir: filepath.Join(testkit.BPFFS(t), "node"), Capacities: small, Flows: 1024}
	cgroup := testkit.EnterCgroup(t)
	ns := testkit.NewNetNS(t)
	ns.Up(t, "lo", netip.MustParsePrefix("10.1.0.1/32"))
	serve(t, ns, "10.1.0.1:8080")
	start := func() *bpf.Dataplane {
		plane, err := bpf.Load(options)
		check(t, err)
		check(t, plane.AttachCgroup(cgroup))
		return plane
	}
	plane := start()
	for i, p := range []model.Protocol{model.TCP, model.UDP} {
		id := uint32(i + 1)
		testkit.Put(t, plane, testkit.Service{Set: id, Protocol: p, Frontends: at(service4), Backends: backends(id, "10.1.0.1:8080")})
	}
	ns.Do(t, func() {
		tcp, udp := dialRaw(t, "tcp4", netip.MustParseAddrPort(service4)), dialRaw(t, "udp4", netip.MustParseAddrPort(service4))
		defer tcp.Close()
		defer udp.Close()
		works := func(when string) {
			for _, network := range []string{"tcp4", "udp4"} {
				conn := dialRaw(t, network, netip.MustParseAddrPort(service4))
				ask(t, conn)
				if got := conn.RemoteAddr().String(); got != service4 {
					t.Errorf("%s: a new peer shows as %s", when, got)
				}
				conn.Close()
			}
			ask(t, tcp)
			ask(t, udp)
		}
		works("before")
		plane.Close()
		works("without user space")
		plane = start()
		works("after")
		plane.Close()
	})
	check(t, bpf.RemovePins(options.PinDir))
}

// TestRestartKeepsFlows does the same for a connection that is translated per packet.
//
// Row 24: so do connections that are translated per packet.
//
// Promise P4: so do flows that are translated per packet.
func TestRestartKeepsFlows(t *testing.T) {
	testkit.NeedKernel(t)
	f := newFabric(t, bpf.Options{PinDir: filepath.Join(testkit.BPFFS(t), "node")})
	f.putServices(t)
	serve(t, f.backend, backend4+":8080")
	f.client.Do(t, func() {
		conn := dialRaw(t, "tcp4", netip.MustParseAddrPort(service4))
		defer conn.Close()
		ask(t, conn)
		f.plane.Close()
		ask(t, conn)
		f.start(t)
		ask(t, conn)
	})
}
