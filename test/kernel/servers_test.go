// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// patience is how long anything may take that must come: the machine may be busy with other tests. What must not come is
// waited for as briefly as each test says.
const patience = 30 * time.Second

// serve answers on TCP and UDP at addr inside ns with its own address and the client's.
func serve(t testing.TB, ns *testkit.NetNS, addr string) {
	t.Helper()
	ns.Do(t, func() {
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go serveTCP(tcp, addr)
		go serveUDP(udp, addr)
	})
}

func serveTCP(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		go func() {
			defer conn.Close()
			b := make([]byte, 64)
			for {
				if _, err := conn.Read(b); err != nil {
					return
				}
				conn.Write([]byte(name))
			}
		}()
	}
}

func serveUDP(conn *net.UDPConn, name string) {
	b := make([]byte, 64)
	for {
		_, client, err := conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			conn.WriteToUDPAddrPort([]byte(name), client)
		}
	}
}

// fileConn makes a net.Conn of a connected socket and takes it over.
func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}
