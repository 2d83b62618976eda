// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// listening returns the address of a server with one TCP or UDP port on the loopback.
func listening(t *testing.T, protocol string) (*Server, string) {
	t.Helper()
	s := New("shop/web-0", "web-0", slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	if err := s.Listen([]netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port{Protocol: protocol}); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for socket := range s.sockets {
		switch x := socket.(type) {
		case net.Listener:
			return s, x.Addr().String()
		case net.PacketConn:
			return s, x.LocalAddr().String()
		}
	}
	t.Fatal("nothing listens")
	return nil, ""
}

func dial(t *testing.T, network, address string) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c, "shop/web-0 " + c.LocalAddr().String() + "\n"
}

func TestSilentClientGetsALineAndTheEnd(t *testing.T) {
	t.Parallel()
	_, address := listening(t, "TCP")
	c, want := dial(t, "tcp", address)
	got, err := io.ReadAll(c)
	if string(got) != want || err != nil {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
}

func TestTalkingClientKeepsItsConnection(t *testing.T) {
	t.Parallel()
	s, address := listening(t, "TCP")
	c, want := dial(t, "tcp", address)
	lines := bufio.NewReader(c)
	for range 3 {
		if _, err := io.WriteString(c, "GETTING nowhere\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := lines.ReadString('\n'); got != want || err != nil {
			t.Fatalf("got %q and %v, want %q", got, err, want)
		}
	}
	if s.Busy() != 1 {
		t.Errorf("%d clients in hand, want 1", s.Busy())
	}
}

func TestHTTPOnTheSamePort(t *testing.T) {
	t.Parallel()
	_, address := listening(t, "TCP")
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for range 2 { // the second over the same connection
		response, err := client.Get("http://" + address + "/hostname")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) != "web-0\n" || err != nil || response.Header.Get("X-Pod") != "shop/web-0" {
			t.Errorf("got %q and %v with header %v", body, err, response.Header)
		}
	}
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	_, address := listening(t, "UDP")
	c, want := dial(t, "udp", address)
	if _, err := io.WriteString(c, "?"); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, err := c.Read(buffer)
	if string(buffer[:n]) != want || err != nil {
		t.Errorf("got %q and %v, want %q", buffer[:n], err, want)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	t.Parallel()
	s, address := listening(t, "TCP")
	c, _ := dial(t, "tcp", address)
	if _, err := io.WriteString(c, "?"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}
