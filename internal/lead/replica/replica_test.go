// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/lead"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// one is a replica that leads by waiting for the end of its term.
type one struct {
	*Replica
	conn  *bus.Conn
	fence atomic.Pointer[bus.Fence]
	ended chan error // why each of its terms ended
	fail  chan error
	stop  context.CancelFunc
	done  chan struct{}
}

func startServer(t *testing.T) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	return server
}

func begin(t *testing.T, server, name string) *one {
	t.Helper()
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server, Name: "compiler " + name})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(t.Context(), 1, schemas.Deltas); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	o := &one{
		Replica: New(conn, Options{
			Options: lead.Options{Service: "compiler", Name: name}, Stream: schemas.Deltas.Name, EpochSubject: schemas.SubjectEpoch,
		}),
		conn: conn, ended: make(chan error, 16), fail: make(chan error), stop: stop, done: make(chan struct{}),
	}
	o.Set(lead.Shape{Able: true})
	go func() {
		defer close(o.done)
		if err := o.Run(ctx, o.work); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { o.stop(); <-o.done; conn.Close() })
	return o
}

func (o *one) work(ctx context.Context, fence *bus.Fence) (err error) {
	o.fence.Store(fence)
	defer func() { o.fence.Store(nil); o.ended <- err }()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-o.fail:
		return err
	}
}

func (o *one) leads() bool { return o.fence.Load() != nil && o.Sure() }

func TestOneLeadsAndTheOtherTakesOverWhenItStops(t *testing.T) {
	server := startServer(t)
	a := begin(t, server.URL(), "a")
	testkit.Eventually(t, 10*time.Second, a.leads)
	b := begin(t, server.URL(), "b")
	testkit.Eventually(t, 10*time.Second, func() bool { return len(a.Peers()) == 2 && len(b.Peers()) == 2 })
	if b.leads() || b.Peers()[0].Epoch != a.fence.Load().Epoch() {
		t.Fatalf("b sees %+v and leads: %t", b.Peers(), b.leads())
	}
	a.stop()
	<-a.done
	testkit.Eventually(t, 10*time.Second, b.leads)
	if epoch := b.fence.Load().Epoch(); epoch != 2 {
		t.Errorf("b leads in epoch %d, want 2", epoch)
	}
	if err := <-a.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a's term ended by %v", err)
	}
}

func TestATermThatFailsIsAnothers(t *testing.T) {
	server := startServer(t)
	a := begin(t, server.URL(), "a")
	testkit.Eventually(t, 10*time.Second, a.leads)
	b := begin(t, server.URL(), "b")
	testkit.Eventually(t, 10*time.Second, func() bool { return len(b.Peers()) == 2 })
	a.fail <- errors.New("out of paper")
	testkit.Eventually(t, 10*time.Second, b.leads)
	if a.leads() {
		t.Error("a leads too")
	}
}

// Fault 2: two lead. Who hears of a higher epoch ends its term.
func TestAHigherEpochEndsATerm(t *testing.T) {
	server := startServer(t)
	a := begin(t, server.URL(), "a")
	testkit.Eventually(t, 10*time.Second, a.leads)
	rival, err := a.conn.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "rival")
	if err != nil {
		t.Fatal(err)
	}
	a.send(&schemas.Pulse{Service: "compiler", Name: "rival", Epoch: rival.Epoch(), Able: true})
	if err := <-a.ended; !errors.Is(err, bus.ErrDeposed) {
		t.Errorf("a's term ended by %v, want ErrDeposed", err)
	}
}

// Fault 5: the server restarts. The leader asks who leads, and goes on in its epoch if nobody else took it.
func TestALeaderGoesOnAfterTheServerWasAway(t *testing.T) {
	dir := t.TempDir()
	server, err := embedded.Start(embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	a := begin(t, server.URL(), "a")
	testkit.Eventually(t, 10*time.Second, a.leads)
	address, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(address.Port())
	if err != nil {
		t.Fatal(err)
	}
	server.Shutdown()
	testkit.Eventually(t, 10*time.Second, func() bool { return !a.Sure() })
	server, err = embedded.Start(embedded.Options{Dir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	testkit.Eventually(t, 20*time.Second, a.leads)
	if epoch := a.fence.Load().Epoch(); epoch != 1 {
		t.Errorf("it leads in epoch %d, want 1: nobody else has taken it", epoch)
	}
}
