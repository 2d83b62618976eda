// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

func TestMain(m *testing.M) { testkit.VerifyLeaks(m) }

// startServer starts a server that ends with the test.
func startServer(t testing.TB, o embedded.Options) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// connect connects to a server until the test ends.
func connect(t testing.TB, o Options) *Conn {
	t.Helper()
	if o.Name == "" {
		o.Name = "test"
	}
	c, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func start(t testing.TB) *Conn {
	t.Helper()
	return connect(t, Options{URL: startServer(t, embedded.Options{}).URL()})
}

// receive waits for the next value.
func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 s")
		panic("unreachable")
	}
}

// log is a logger whose lines can be waited for.
type log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.wrote <- struct{}{}:
	default:
	}
	return l.text.Write(b)
}

func newLog() (*log, *slog.Logger) {
	l := &log{wrote: make(chan struct{}, 1)}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

func (l *log) waitFor(t testing.TB, text string) {
	t.Helper()
	for {
		l.mu.Lock()
		all := l.text.String()
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		receive(t, l.wrote)
	}
}

// wantError checks that an error says all that a person needs.
func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q doesn't say %q", err, part)
		}
	}
}

func TestNoServerIsSaidAtOnceAndTriedUntilTheContextEnds(t *testing.T) {
	l, logger := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Connect(ctx, Options{URL: "nats://127.0.0.1:1", Name: "test", Log: logger})
		ended <- err
	}()
	l.waitFor(t, "the bus is away; trying again")
	cancel()
	wantError(t, receive(t, ended), "connect to the bus at nats://127.0.0.1:1", "gave up after", "is a NATS server running there?")
}

func TestServerThatComesLaterIsFound(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	l, logger := newLog()
	connected := make(chan error, 1)
	go func() {
		c, err := Connect(t.Context(), Options{URL: fmt.Sprintf("nats://127.0.0.1:%d", port), Name: "test", Log: logger})
		if err == nil {
			defer c.Close()
		}
		connected <- err
	}()
	l.waitFor(t, "the bus is away")
	startServer(t, embedded.Options{Port: port})
	if err := receive(t, connected); err != nil {
		t.Fatal(err)
	}
}

func TestURLThatCannotBeRightIsRefusedAtOnce(t *testing.T) {
	for _, url := range []string{"", "nats://"} {
		_, err := Connect(t.Context(), Options{URL: url})
		wantError(t, err, "bus URL", "nats://127.0.0.1:4222")
	}
}

func TestPasswordsStayOutOfErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Connect(ctx, Options{URL: "nats://user:hunter2@127.0.0.1:1"})
	wantError(t, err, "user:xxxxx@")
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the password is in %q", err)
	}
	for url, want := range map[string]string{
		"nats://a:secret@h:1,nats://b:secret@h:2": "nats://a:xxxxx@h:1,nats://b:xxxxx@h:2",
		"nats://secret@h:1":                       "nats://:xxxxx@h:1",
		"tls://h:4222,nats://[::1]:4222":          "tls://h:4222,nats://[::1]:4222",
	} {
		if got := redacted(url); got != want {
			t.Errorf("%s is shown as %s, want %s", url, got, want)
		}
	}
}

func TestRestartOfTheServerIsLivedThrough(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, embedded.Options{Dir: dir})
	url := server.URL()
	port := portOf(t, url)
	lost, back, heard := make(chan error, 8), make(chan struct{}, 8), make(chan string, 8)
	c := connect(t, Options{
		URL:          url,
		OnDisconnect: func(err error) { lost <- err },
		OnReconnect:  func() { back <- struct{}{} },
	})
	if _, err := c.Subscribe("greeting", func(m Message) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	server.Shutdown()
	receive(t, lost)
	wantError(t, c.Publish("greeting", []byte("lost")), "publish on greeting", "not connected to the bus at "+url)
	wantError(t, c.Connected(), "not connected")

	startServer(t, embedded.Options{Dir: dir, Port: port})
	receive(t, back)
	if err := c.Publish("greeting", []byte("hello again")); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, heard); got != "hello again" {
		t.Errorf("heard %q: what was published while the bus was away must not come later", got)
	}
	if err := c.Connected(); err != nil {
		t.Error(err)
	}
}

func portOf(t testing.TB, url string) int {
	t.Helper()
	var port int
	if _, err := fmt.Sscanf(url[strings.LastIndex(url, ":"):], ":%d", &port); err != nil {
		t.Fatalf("port of %s: %v", url, err)
	}
	return port
}

func TestMessageThatIsTooLargeIsRefusedBeforeItIsSent(t *testing.T) {
	c := start(t)
	err := c.Publish("some.subject", make([]byte, schemas.MaxMessageBytes+1))
	wantError(t, err, "publish on some.subject", fmt.Sprint(schemas.MaxMessageBytes), "send it in parts")
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v is not ErrTooLarge", err)
	}
	if err := c.Publish("some.subject", make([]byte, schemas.MaxMessageBytes)); err != nil {
		t.Errorf("the largest message: %v", err)
	}
}

func TestServerWithSmallMessagesIsRefused(t *testing.T) {
	file := write(t, "max_payload: 64KB\n")
	_, err := embedded.Start(embedded.Options{ConfigFile: file})
	wantError(t, err, "max_payload is 65536 bytes", "raise it")
}

func TestSlowHandlerIsToldWhatItLost(t *testing.T) {
	l, logger := newLog()
	dropped := make(chan string, 1)
	c := connect(t, Options{
		URL: startServer(t, embedded.Options{}).URL(), Log: logger,
		OnDropped: func(subject string, n int) {
			select {
			case dropped <- fmt.Sprint(subject, " ", n > 0):
			default:
			}
		},
	})
	release := make(chan struct{})
	if _, err := c.Subscribe("flood", func(Message) { <-release }); err != nil {
		t.Fatal(err)
	}
	defer close(release)
	for range pendingMessages + 100 {
		if err := c.Publish("flood", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, dropped); got != "flood true" {
		t.Errorf("told %q", got)
	}
	l.waitFor(t, "messages dropped: this process is too slow for the subject")
}

func TestHandlersOfOneSubscriptionRunInOrder(t *testing.T) {
	c := start(t)
	got := make(chan byte, 200)
	if _, err := c.Subscribe("count", func(m Message) { got <- m.Data[0] }); err != nil {
		t.Fatal(err)
	}
	for i := range byte(200) {
		if err := c.Publish("count", []byte{i}); err != nil {
			t.Fatal(err)
		}
	}
	for want := range byte(200) {
		if b := receive(t, got); b != want {
			t.Fatalf("message %d came in place of %d", b, want)
		}
	}
}

func TestCloseWaitsForHandlers(t *testing.T) {
	c := start(t)
	running, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	if _, err := c.Subscribe("work", func(Message) { close(running); <-release; close(done) }); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish("work", nil); err != nil {
		t.Fatal(err)
	}
	receive(t, running)
	go func() { release <- struct{}{} }()
	c.Close()
	select {
	case <-done:
	default:
		t.Error("Close returned while a handler was running")
	}
	if err := c.Publish("work", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("publish after Close: %v, want ErrClosed", err)
	}
}
