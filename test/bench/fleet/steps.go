// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// start publishes the whole cluster, then starts all nodes with empty maps.
func start(ctx context.Context, c *cluster, _ plan) error {
	if err := c.publish(ctx, c.made.All()...); err != nil {
		return err
	}
	return c.measure(ctx, "start", 0, func() error {
		if err := c.startNodes(); err != nil {
			return err
		}
		return c.converge(ctx)
	})
}

// quiet lets nothing happen for a while: what remains are heartbeats and reports.
func quiet(ctx context.Context, c *cluster, _ plan) error {
	return c.measure(ctx, "quiet", 0, func() error { return pause(ctx, 20*time.Second) })
}

// idle makes one change a second, each after all nodes have the one before.
func idle(ctx context.Context, c *cluster, p plan) error {
	return c.measure(ctx, "idle", p.idle, func() error {
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
	return c.storm(ctx, "load", p.rate, p.load, p.services)
}

// flips makes changes at a rate to the same few Services.
func flips(ctx context.Context, c *cluster, p plan) error {
	return c.storm(ctx, "flips", p.flips, p.flipping, min(p.services, 10))
}

// storm changes random ones of the first Services at a rate, then waits until all nodes have the last change.
func (c *cluster) storm(ctx context.Context, name string, rate int, lasts time.Duration, services int) error {
	const ticks = 50 // a second
	random := rand.New(rand.NewPCG(1, 2))
	return c.measure(ctx, name, int(lasts.Seconds()*float64(rate)), func() error {
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
		return c.converge(ctx)
	})
}

// restart ends all nodes at once and starts them again on what their maps hold.
func restart(ctx context.Context, c *cluster, _ plan) error { return c.again(ctx, "restart") }

// cold ends all nodes at once and starts them again with empty maps.
func cold(ctx context.Context, c *cluster, _ plan) error { return c.again(ctx, "cold") }

func (c *cluster) again(ctx context.Context, how string) error {
	return c.measure(ctx, how, 0, func() error {
		if _, err := c.do(how); err != nil {
			return err
		}
		return c.whole(ctx)
	})
}

// whole waits until every node holds all that it heard of.
func (c *cluster) whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, convergeWithin)
	defer cancel()
	for {
		seen, err := c.do("seen")
		if err != nil || seen.Whole == c.nodes {
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
