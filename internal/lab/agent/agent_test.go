// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The test binary is its own agent.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_AGENT_TEST") == "1" {
		if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func client(t *testing.T) *Client {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LAB_AGENT_TEST=1")
	c, err := Start(cmd, (*exec.Cmd).Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// web is a pod that speaks HTTP.
func web(t *testing.T) netip.AddrPort {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "shop/web-0 %s\n", r.RemoteAddr)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).AddrPort()
}

// pod answers like a lab pod until the test ends: a line for a line.
func pod(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
					fmt.Fprintf(c, "shop/web-0 %s\n", c.RemoteAddr())
				}
				io.Copy(io.Discard, c)
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func silence(t *testing.T) netip.AddrPort {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return socket.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	c := client(t)
	for _, test := range []struct {
		name   string
		target Target
		want   Outcome
	}{
		{"answered", Target{Protocol: "tcp", Address: pod(t)}, OK},
		{"no listener", Target{Protocol: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:1")}, Refused},
		{"no listener, datagram", Target{Protocol: "udp", Address: netip.MustParseAddrPort("127.0.0.1:1")}, Refused},
		{"no answer", Target{Protocol: "udp", Address: silence(t), Timeout: 50 * time.Millisecond}, Timeout},
		{"no answer, not connected", Target{Protocol: "udp", Address: silence(t), Unconnected: true, Timeout: 50 * time.Millisecond}, Timeout},
		{"no such network", Target{Protocol: "tcp", Address: netip.MustParseAddrPort("255.255.255.255:1")}, Unreachable},
	} {
		if test.target.Timeout == 0 {
			test.target.Timeout = 30 * time.Second
		}
		got, err := c.Probe(t.Context(), test.target, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Outcome != test.want {
			t.Errorf("%s: got %+v, want %s", test.name, got[0], test.want)
		}
	}
}

func TestResultNamesPodAndClient(t *testing.T) {
	t.Parallel()
	got, err := client(t).Probe(t.Context(), Target{Protocol: "tcp", Address: pod(t), Timeout: 30 * time.Second}, 3, 0)
	if err != nil || len(got) != 3 {
		t.Fatalf("got %v and %v, want 3 results", got, err)
	}
	if got[0].Reached != "shop/web-0" || got[0].ClientAddress != "127.0.0.1" || got[0].ClientPort == 0 {
		t.Errorf("got %+v", got[0])
	}
}

// freePort is one that nothing on this machine uses at the moment.
func freePort(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestEachAttemptComesFromTheChosenPort(t *testing.T) {
	t.Parallel()
	c := client(t)
	for _, test := range []struct {
		name   string
		target Target
	}{
		{"a line", Target{Protocol: "tcp", Address: pod(t)}},
		{"HTTP", Target{Protocol: "tcp", Address: web(t), HTTP: true}},
	} {
		test.target.SourcePort, test.target.Timeout = freePort(t), 5*time.Second
		got, err := c.Probe(t.Context(), test.target, 3, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, result := range got {
			if result.Outcome != OK || result.ClientPort != test.target.SourcePort {
				t.Errorf("%s, attempt %d: got %+v, want ok from port %d", test.name, i, result, test.target.SourcePort)
			}
		}
	}
}

func TestLoadCounts(t *testing.T) {
	t.Parallel()
	c := client(t)
	good, err := c.Load(Target{Protocol: "tcp", Address: pod(t), Timeout: 30 * time.Second}, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := c.Load(Target{Protocol: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:1"), Timeout: 30 * time.Second}, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Probe(t.Context(), Target{Protocol: "udp", Address: silence(t), Timeout: 50 * time.Millisecond}, 1, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := good(t.Context()); err != nil || got.Failed != 0 || got.Attempts == 0 || got.Reached["shop/web-0"] != got.Attempts {
		t.Errorf("got %+v and %v", got, err)
	}
	if got, err := bad(t.Context()); err != nil || got.Failed != got.Attempts || len(got.Failures) == 0 {
		t.Errorf("got %+v and %v", got, err)
	}
}

func TestEndOfTheProcessIsTold(t *testing.T) {
	t.Parallel()
	c := client(t)
	if _, err := io.WriteString(c.in, "nonsense\n"); err != nil {
		t.Fatal(err)
	}
	_, err := c.Probe(t.Context(), Target{Protocol: "tcp", Address: pod(t), Timeout: time.Second}, 1, 0)
	if err == nil || !strings.Contains(err.Error(), "agent") {
		t.Errorf("got %v", err)
	}
}
