// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// datagrams is a pod that answers each datagram by its name, which may change, or not at all while it has none.
func datagrams(t *testing.T) (netip.AddrPort, *atomic.Pointer[string]) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	var name atomic.Pointer[string]
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			if n := name.Load(); n != nil {
				fmt.Fprintf(writerTo{socket, from}, "%s %s\n", *n, from)
			}
		}
	}()
	return socket.LocalAddr().(*net.UDPAddr).AddrPort(), &name
}

type writerTo struct {
	socket net.PacketConn
	to     net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.socket.WriteTo(b, w.to) }

// talker is a pod that answers each line on a connection, at most so many.
func talker(t *testing.T, lines int) netip.AddrPort {
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
			reader := bufio.NewReader(c)
			for range lines {
				if _, err := reader.ReadString('\n'); err != nil {
					break
				}
				fmt.Fprintf(c, "shop/web-0 %s\n", c.RemoteAddr())
			}
			c.Close()
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestAStreamIsOneSocket(t *testing.T) {
	t.Parallel()
	udp, name := datagrams(t)
	cart := "shop/cart-0"
	name.Store(&cart)
	for _, target := range []Target{{Protocol: "udp", Address: udp}, {Protocol: "tcp", Address: talker(t, 100)}} {
		target.Stream, target.Timeout = true, 5*time.Second
		got, err := client(t).Probe(t.Context(), target, 4, time.Millisecond)
		if err != nil || len(got) != 4 {
			t.Fatalf("%s: %v, %v", target.Protocol, got, err)
		}
		for _, r := range got {
			if r.Outcome != OK || r.ClientPort != got[0].ClientPort {
				t.Errorf("%s: %+v, want ok from port %d", target.Protocol, r, got[0].ClientPort)
			}
		}
	}
}

func TestAStreamThatHasEndedIsOpenedAgain(t *testing.T) {
	t.Parallel()
	s := stream{target: Target{Protocol: "tcp", Address: talker(t, 1), Stream: true, Timeout: 30 * time.Second}}
	defer s.close()
	if r := s.attempt(t.Context()); r.Outcome != OK {
		t.Fatalf("first: %+v", r)
	}
	if r := s.attempt(t.Context()); r.Outcome != Refused {
		t.Errorf("after the server's end: %+v, want refused", r)
	}
	if r := s.attempt(t.Context()); r.Outcome != OK {
		t.Errorf("on a new connection: %+v", r)
	}
	s = stream{target: Target{Protocol: "udp", Unconnected: true, Timeout: time.Second}}
	if r := s.attempt(t.Context()); !strings.Contains(r.Error, "is kept open") {
		t.Errorf("a socket without a peer: %+v", r)
	}
}

func TestALateAnswerIsNoneToTheNextQuestion(t *testing.T) {
	t.Parallel()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	s := stream{target: Target{Protocol: "udp", Address: socket.LocalAddr().(*net.UDPAddr).AddrPort(), Stream: true, Timeout: 20 * time.Millisecond}}
	defer s.close()
	if r := s.attempt(t.Context()); r.Outcome != Timeout {
		t.Fatalf("%+v, want a timeout", r)
	}
	buffer := make([]byte, 10)
	_, from, err := socket.ReadFrom(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(writerTo{socket, from}, "shop/late 127.0.0.1:1\n"); err != nil {
		t.Fatal(err)
	}
	if r := s.attempt(t.Context()); r.Outcome != Timeout {
		t.Errorf("%+v, want a timeout", r)
	}
}

func TestTallyKnowsGapsAndSwitches(t *testing.T) {
	t.Parallel()
	tally := newTally(true)
	at := time.Unix(1000, 0)
	for _, step := range []struct {
		after   time.Duration
		reached string
	}{{0, "a"}, {10 * time.Millisecond, "a"}, {10 * time.Millisecond, ""}, {20 * time.Millisecond, "b"}, {5 * time.Millisecond, "b"}} {
		at = at.Add(step.after)
		result := Result{Outcome: OK, Reached: step.reached}
		if step.reached == "" {
			result.Outcome = Timeout
		}
		tally.count(result, at)
	}
	l := tally.load
	if l.Attempts != 5 || l.Failed != 1 || l.LongestGapMicros != 30_000 {
		t.Errorf("%+v", l)
	}
	if len(l.Switches) != 1 || l.Switches[0] != (Switch{"a", "b", 30_000}) {
		t.Errorf("switches %+v", l.Switches)
	}
}
