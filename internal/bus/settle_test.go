// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
)

// sent stores records as Append does, but the fence hears no answer.
func sent(t *testing.T, f *Fence, renew bool, text ...string) {
	t.Helper()
	if _, err := f.conn.commit(t.Context(), appendTime, f.messages(records(text...), renew)); err != nil {
		t.Fatal(err)
	}
}

// Fault 5: the bus fails amid an append. Who appended finds out whether it is stored, and goes on.
func TestWhoHearsNoAnswerFindsOut(t *testing.T) {
	for name, test := range map[string]struct{ stored, renewed bool }{
		"stored":                     {true, false},
		"stored, with the epoch":     {true, true},
		"not stored":                 {false, false},
		"not stored, with the epoch": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := startWith(t, ledger)
			f := take(t, c, "one")
			if _, err := f.Append(t.Context(), records("before")); err != nil {
				t.Fatal(err)
			}
			if test.stored {
				sent(t, f, test.renewed, "a", "b")
			}
			if _, err := f.settle(t.Context(), records("a", "b"), test.renewed, ErrUncertain); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Append(t.Context(), records("after")); err != nil {
				t.Fatalf("the fence doesn't hold any more: %v", err)
			}
			want := []string{"ledger.entry.0=before", "ledger.entry.0=a", "ledger.entry.1=b", "ledger.entry.0=after"}
			if diff := cmp.Diff(want, entries(t, c)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Fault 5: NATS restarts amid an append. Who appended waits for it, and goes on.
func TestWhoHearsNoAnswerWaitsForTheBus(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, embedded.Options{Dir: dir})
	lost := make(chan error, 1)
	c := connect(t, Options{URL: server.URL(), OnDisconnect: func(err error) { lost <- err }})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	sent(t, f, false, "a", "b")
	server.Shutdown()
	receive(t, lost)
	settled := make(chan error, 1)
	go func() {
		_, err := f.settle(t.Context(), records("a", "b"), false, ErrUncertain)
		settled <- err
	}()
	startServer(t, embedded.Options{Dir: dir, Port: portOf(t, server.URL())})
	if err := receive(t, settled); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ledger.entry.0=a", "ledger.entry.1=b"}, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestWhoHearsNoAnswerAndIsDeposedStoresNothing(t *testing.T) {
	for _, renewed := range []bool{false, true} {
		c := startWith(t, ledger)
		f := take(t, c, "one")
		take(t, c, "another")
		if _, err := f.settle(t.Context(), records("a"), renewed, ErrUncertain); !errors.Is(err, ErrDeposed) {
			t.Errorf("%v, want ErrDeposed", err)
		}
		if got := entries(t, c); len(got) > 0 {
			t.Errorf("%v is stored", got)
		}
	}
}

// A stream that went back by as much as the batch has looks as if that weren't stored.
func TestWhoHearsNoAnswerOfAStreamThatWentBackDoesNotStoreTwice(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	if _, err := f.Append(t.Context(), records("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.settle(t.Context(), records("a"), false, ErrUncertain); !errors.Is(err, ErrUncertain) {
		t.Errorf("%v, want ErrUncertain", err)
	}
	if got := entries(t, c); len(got) != 1 {
		t.Errorf("%v is stored", got)
	}
}

// An append goes on through a bus whose answers are held up for longer than one is waited for.
func TestAnAppendWhoseAnswerIsLateGoesOn(t *testing.T) {
	server := startServer(t, embedded.Options{})
	late := newHoldUp(t, server.URL())
	c := connect(t, Options{URL: late.url})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	late.hold <- answerTime + 100*time.Millisecond
	begun := time.Now()
	if _, err := f.Append(t.Context(), records("a", "b")); err != nil {
		t.Fatal(err)
	}
	t.Logf("after %s", time.Since(begun).Round(time.Millisecond))
	if diff := cmp.Diff([]string{"ledger.entry.0=a", "ledger.entry.1=b"}, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

// holdUp passes a connection on to a server. What the server says is held up once for each time that hold is told.
type holdUp struct {
	url  string
	hold chan time.Duration
}

func newHoldUp(t *testing.T, server string) *holdUp {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h := &holdUp{url: "nats://" + l.Addr().String(), hold: make(chan time.Duration, 1)}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go h.pass(t.Context(), client, server[len("nats://"):])
		}
	}()
	return h
}

func (h *holdUp) pass(ctx context.Context, client net.Conn, server string) {
	to, err := (&net.Dialer{}).DialContext(ctx, "tcp", server)
	if err != nil {
		_ = client.Close()
		return
	}
	go func() { _, _ = io.Copy(to, client); _ = to.Close() }()
	defer func() { _ = client.Close() }()
	data := make([]byte, 32<<10)
	for {
		n, err := to.Read(data)
		select {
		case d := <-h.hold:
			<-time.After(d)
		default:
		}
		if err != nil {
			return
		}
		if _, err := client.Write(data[:n]); err != nil {
			return
		}
	}
}
