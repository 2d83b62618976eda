// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// How often each client asks, and how long it waits. Who is to get an answer waits for long: the machine may be busy.
const (
	askEvery    = 40 * time.Millisecond
	allowedWait = 20 * time.Second
	deniedWait  = 150 * time.Millisecond
)

// longestPause is the most between two answers; more is a hole, whoever repeated what was lost.
func longestPause() time.Duration { return pick(15*time.Second, 3*time.Second) }

// traffic is clients that ask on and on: by new connections, by connections that stay, and by datagrams.
type traffic struct {
	allowed, denied map[string]func(context.Context) (*agent.Load, error)
}

// count is what came of traffic.
type count struct{ tried, failed, denied, passed int }

func (n count) String() string {
	return fmt.Sprintf("%d attempts, %d failed; %d that had to fail, %d passed", n.tried, n.failed, n.denied, n.passed)
}

// newTraffic begins to ask.
func newTraffic(t *testing.T, c *cluster) *traffic {
	t.Helper()
	f := &traffic{map[string]func(context.Context) (*agent.Load, error){}, map[string]func(context.Context) (*agent.Load, error){}}
	begin := func(into map[string]func(context.Context) (*agent.Load, error), r lab.ProbeRequest) {
		t.Helper()
		stop, err := c.Load(r, askEvery)
		check(t, err)
		name := fmt.Sprintf("%s → %s by %s", r.From, r.To, r.Protocol)
		if r.Stream {
			name += ", kept"
		}
		into[name] = stop
	}
	for n := range nodes {
		for _, r := range []lab.ProbeRequest{
			{To: "shop/web:80", Protocol: "tcp"}, {To: "shop/web:80", Protocol: "tcp", Stream: true}, {To: "shop/web:53", Protocol: "udp", Stream: true},
		} {
			r.From, r.Timeout = fmt.Sprintf("shop/buyer-%d", n), allowedWait
			begin(f.allowed, r)
			if r.Stream {
				continue
			}
			r.From, r.Timeout = fmt.Sprintf("shop/stranger-%d", n), deniedWait
			begin(f.denied, r)
		}
		begin(f.allowed, lab.ProbeRequest{From: "outside", To: fmt.Sprintf("node/node-%d:30080", n+1), Protocol: "tcp", Timeout: allowedWait})
	}
	begin(f.denied, lab.ProbeRequest{From: "shop/stranger-0", To: "shop/web:53", Protocol: "udp", Stream: true, Timeout: deniedWait})
	return f
}

// end stops asking and fails the test for each attempt that failed or passed and shouldn't have.
func (f *traffic) end(t *testing.T) (n count) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(f.allowed)) {
		load, err := f.allowed[name](ctx)
		check(t, err)
		n.tried, n.failed = n.tried+load.Attempts, n.failed+load.Failed
		if load.Attempts == 0 || load.Failed > 0 {
			t.Errorf("%s: %d of %d attempts failed:\n%s", name, load.Failed, load.Attempts, strings.Join(load.Failures, "\n"))
		}
		if gap := time.Duration(load.LongestGapMicros) * time.Microsecond; gap > longestPause() {
			t.Errorf("%s: no answer came for %v", name, gap)
		}
		if len(load.Switches) > 0 {
			t.Errorf("%s: a connection that stays has moved: %+v", name, load.Switches)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.denied)) {
		load, err := f.denied[name](ctx)
		check(t, err)
		passed := load.Attempts - load.Failed
		n.denied, n.passed = n.denied+load.Attempts, n.passed+passed
		if load.Attempts == 0 || passed > 0 {
			t.Errorf("%s: %d of %d attempts passed, which policy denies: %v", name, passed, load.Attempts, load.Reached)
		}
	}
	return n
}
