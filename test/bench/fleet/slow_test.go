// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// brake is a bad connection to the bus: what the server sends arrives at so many bytes a second; 0 is as fast as it goes, less
// is not at all.
type brake struct {
	t      *testing.T
	to     string
	listen net.Listener
	rate   atomic.Int64
	ended  context.Context
	all    sync.WaitGroup
}

func newBrake(t *testing.T, c *cluster, rate int64) *brake {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	b := &brake{t: t, to: c.url[len("tls://"):], listen: listener, ended: ended}
	b.rate.Store(rate)
	b.all.Go(b.accept)
	t.Cleanup(func() {
		end()
		listener.Close()
		b.all.Wait()
	})
	return b
}

func (b *brake) url() string { return "tls://" + b.listen.Addr().String() }

func (b *brake) accept() {
	for {
		node, err := b.listen.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", b.to)
		if err != nil {
			node.Close()
			continue
		}
		// So that what the server believes to have sent doesn't lie in buffers here.
		_ = server.(*net.TCPConn).SetReadBuffer(4 << 10) // a hint
		stop := context.AfterFunc(b.ended, func() { node.Close(); server.Close() })
		b.all.Go(func() {
			_, _ = io.Copy(server, node) // until one of them goes
			server.Close()
		})
		b.all.Go(func() {
			defer stop()
			b.carry(node, server)
			node.Close()
			server.Close()
		})
	}
}

// carry carries what the server sends.
func (b *brake) carry(node io.Writer, server io.Reader) {
	const ticks = 8 // a second
	tick := time.NewTicker(time.Second / ticks)
	defer tick.Stop()
	buffer := make([]byte, 32<<10)
	for {
		n := len(buffer)
		if rate := b.rate.Load(); rate != 0 {
			select {
			case <-tick.C:
			case <-b.ended.Done():
				return
			}
			if rate < 0 {
				continue
			}
			n = int(rate / ticks)
		}
		n, err := server.Read(buffer[:n])
		if err != nil {
			return
		}
		if _, err := node.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// startBad starts one node behind a brake.
func startBad(t *testing.T, c *cluster, b *brake, name string) *virtual.Fleet {
	t.Helper()
	o := c.nodeOptions()
	o.URL, o.Names = b.url(), []string{name}
	f, err := virtual.New(*o)
	if err == nil {
		err = f.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Stop)
	return f
}

// convergeBut waits until no node but some lacks what was published.
func (c *cluster) convergeBut(ctx context.Context, some ...string) error {
	return c.convergeIf(ctx, func(s *schemas.Status) bool {
		listed := uint64(len(s.GetNodes())) == s.GetNodesLacking()
		return listed && !slices.ContainsFunc(s.GetNodes(), func(n *schemas.NodeStatus) bool { return !slices.Contains(some, n.GetNode()) })
	})
}

// TestABadConnectionHoldsUpNobody has one node that is stopped, and one whose connection carries 2 KiB a second, beside others,
// on a server with the deployed limits.
//
// Fault 8: a slow node gets its rows in the end, one that is stopped comes back to them; no other waits, and the server
// cuts off nobody but who has left 16 MB lying.
func TestABadConnectionHoldsUpNobody(t *testing.T) {
	t.Parallel()
	const quick = 20
	stopped, slow := stage.NodeName(quick), stage.NodeName(quick+1)
	c, err := newCluster(t.Context(), plan{
		bin: bin, nats: filepath.Join(bin, "nats-server"), nodes: quick + 2, processes: 1, services: 20, endpoints: 5, tick: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(c.publish(t.Context(), c.made.All()...))
	c.nodes = quick
	do(c.startNodes())
	free, bad := newBrake(t, c, 0), newBrake(t, c, 2<<10)
	startBad(t, c, free, stopped)
	do(c.convergeBut(t.Context(), slow))
	_, err = c.do("reset")
	do(err)

	free.rate.Store(-1)
	pile(t, c, stopped)
	began := time.Now()
	crawls := startBad(t, c, bad, slow)
	for i := range 5 {
		changed := time.Now()
		do(c.publish(t.Context(), c.made.Change(i)))
		do(c.convergeBut(t.Context(), slow, stopped))
		t.Logf("change %d: all others have it after %s", i, time.Since(changed).Round(time.Millisecond))
	}
	s, err := c.status(t.Context(), 1<<62)
	do(err)
	if !slices.ContainsFunc(s.GetNodes(), func(n *schemas.NodeStatus) bool { return n.GetNode() == stopped }) {
		t.Errorf("the node that is stopped isn't named: %v", s.GetNodes())
	}
	testkit.Eventually(t, 3*time.Minute, func() bool { return crawls.Whole() == 1 })
	t.Logf("at 2 KiB/s a node has all after %s: %v", time.Since(began).Round(time.Millisecond), crawls.Seen().Counts)

	free.rate.Store(0)
	c.nodes = quick + 2
	do(c.converge(t.Context()))
	seen, err := c.do("seen")
	do(err)
	for _, never := range []string{"reconnects", "dropped", "unsent", "syncs-failed"} {
		if seen.Counts[never] != 0 {
			t.Errorf("%s among the others: %d", never, seen.Counts[never])
		}
	}
	if n := crawls.Seen().Counts["reconnects"]; n != 0 {
		t.Errorf("the server cut off the slow node %d times", n)
	}
}

// pile sends more to one node than the server keeps for a connection, and waits until that is cut off.
func pile(t *testing.T, c *cluster, node string) {
	t.Helper()
	for range 40 {
		if err := c.people.Publish(schemas.ActualSubject(node), make([]byte, 900<<10)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 20*time.Second, func() bool {
		v, err := c.varz()
		return err == nil && v.SlowConsumers > 0
	})
}
