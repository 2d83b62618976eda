// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
)

// start publishes the whole cluster, then starts all nodes with empty maps.
func start(ctx context.Context, c *cluster, _ plan) error {
	if err := c.publish(ctx, c.made.All()...); err != nil {
		return err
	}
	return c.measure(ctx, "start", func() error {
		if err := c.startNodes(); err != nil {
			return err
		}
		return c.converge(ctx)
	})
}

// quiet lets nothing happen for a while: what remains are heartbeats and reports.
func quiet(ctx context.Context, c *cluster, _ plan) error {
	return c.measure(ctx, "quiet", func() error { return pause(ctx, 20*time.Second) })
}

// idle makes one change a second, each after all nodes have the one before.
func idle(ctx context.Context, c *cluster, p plan) error {
	return c.measure(ctx, "idle", func() error {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for i := range p.idle {
			<-ticker.C
			if err := c.publish(ctx, c.made.Change(i%p.services)); err != nil {
				return err
			}
			if err := c.converge(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// underLoad makes changes at a rate, each to a random Service.
func underLoad(ctx context.Context, c *cluster, p plan) error {
	return c.measure(ctx, "load", func() error {
		if err := c.storm(ctx, p.rate, p.load, p.services); err != nil {
			return err
		}
		return c.converge(ctx)
	})
}

// flips makes changes at a rate to the same few Services, and says each minute what has become of latencies and memory.
func flips(ctx context.Context, c *cluster, p plan) error {
	for n := 1; p.flipping > 0; n++ {
		lasts := min(p.flipping, time.Minute)
		p.flipping -= lasts
		err := c.measure(ctx, fmt.Sprintf("flips-minute-%02d", n), func() error {
			return c.storm(ctx, p.flips, lasts, min(p.services, 10))
		})
		if err != nil {
			return err
		}
	}
	return c.measure(ctx, "after-flips", func() error { return c.converge(ctx) })
}

// storm changes random ones of the first Services at a rate. If publishing can't keep up there are fewer.
func (c *cluster) storm(ctx context.Context, rate int, lasts time.Duration, services int) error {
	const ticks = 50 // a second
	random := rand.New(rand.NewPCG(1, 2))
	ticker := time.NewTicker(time.Second / ticks)
	defer ticker.Stop()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		<-ticker.C
		var facts []*schemas.Fact
		for range rate / ticks {
			facts = append(facts, c.made.Change(random.IntN(services)))
		}
		if err := c.publish(ctx, facts...); err != nil {
			return err
		}
	}
	return nil
}

// reconnect ends the server and starts it again, and makes a change as soon as that can be stored. It is over when all
// nodes have the change.
func reconnect(ctx context.Context, c *cluster, _ plan) error {
	return c.measure(ctx, "reconnect", func() error {
		if err := c.server.Stop(); err != nil {
			return err
		}
		if err := c.startServer(); err != nil {
			return err
		}
		if err := c.publishSoon(ctx, c.made.Change(0)); err != nil {
			return err
		}
		if err := c.converge(ctx); err != nil {
			return err
		}
		return c.back(ctx)
	})
}

// publishSoon publishes as soon as the bus takes it. A fact that was stored though nobody heard so is stored twice.
func (c *cluster) publishSoon(ctx context.Context, fact *schemas.Fact) error {
	ctx, cancel := context.WithTimeout(ctx, convergeWithin)
	defer cancel()
	for {
		err := c.publish(ctx, fact)
		if err == nil {
			return nil
		}
		if paused := pause(ctx, 200*time.Millisecond); paused != nil {
			return errors.Join(paused, err)
		}
		if fence, taken := c.conn.TakeEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch, "fleet"); taken == nil {
			c.fence = fence
		}
	}
}

// back waits until all nodes have a connection again.
func (c *cluster) back(ctx context.Context) error {
	return c.until(ctx, func(s virtual.Seen) bool { return s.Counts["reconnects"] >= uint64(c.nodes) })
}

// restart ends all nodes at once and starts them again on what their maps hold.
func restart(ctx context.Context, c *cluster, _ plan) error { return c.again(ctx, "restart") }

// cold ends all nodes at once and starts them again with empty maps.
func cold(ctx context.Context, c *cluster, _ plan) error { return c.again(ctx, "cold") }

func (c *cluster) again(ctx context.Context, how string) error {
	return c.measure(ctx, how, func() error {
		if _, err := c.do(how); err != nil {
			return err
		}
		return c.whole(ctx)
	})
}

// whole waits until every node holds all that it heard of.
func (c *cluster) whole(ctx context.Context) error {
	return c.until(ctx, func(s virtual.Seen) bool { return s.Whole == c.nodes })
}

// until waits until the nodes have seen enough.
func (c *cluster) until(ctx context.Context, enough func(virtual.Seen) bool) error {
	ctx, cancel := context.WithTimeout(ctx, convergeWithin)
	defer cancel()
	for {
		seen, err := c.do("seen")
		if err != nil || enough(seen) {
			return err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
