// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"syscall"
	"time"

	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// accounts are what was used so far: processor time of the server, the compiler, the nodes' processes and of this one, which
// plays the watcher.
type accounts struct {
	server, compiler, nodes, watcher time.Duration
	varz                             varz
	pid                              int // the server's; another one has counted nothing yet
}

func (c *cluster) account() (a accounts, err error) {
	add := func(to *time.Duration, p *stage.Process) {
		cpu, errCPU := p.CPU()
		*to += cpu
		err = errors.Join(err, errCPU)
	}
	add(&a.server, c.server)
	add(&a.compiler, c.compiler)
	for _, w := range c.workers {
		add(&a.nodes, w.Process)
	}
	var usage syscall.Rusage
	errUsage := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	a.watcher, a.pid = time.Duration(usage.Utime.Nano()+usage.Stime.Nano()), c.server.PID()
	v, errVarz := c.varz()
	a.varz = v
	return a, errors.Join(err, errUsage, errVarz)
}

// since returns what was used since before.
func (a accounts) since(before accounts) accounts {
	if a.pid != before.pid {
		before.server, before.varz = 0, varz{}
	}
	return accounts{
		server: a.server - before.server, compiler: a.compiler - before.compiler, nodes: a.nodes - before.nodes, watcher: a.watcher - before.watcher,
		varz: varz{
			OutMessages: a.varz.OutMessages - before.varz.OutMessages, OutBytes: a.varz.OutBytes - before.varz.OutBytes,
			SlowConsumers: a.varz.SlowConsumers - before.varz.SlowConsumers,
		},
	}
}

// varz is what the server counts.
type varz struct {
	OutMessages   int64 `json:"out_msgs"`
	OutBytes      int64 `json:"out_bytes"`
	SlowConsumers int64 `json:"slow_consumers"`
}

func (c *cluster) varz() (v varz, err error) {
	reply, err := http.Get(c.monitor)
	if err != nil {
		return v, err
	}
	defer reply.Body.Close()
	return v, json.NewDecoder(reply.Body).Decode(&v)
}

// settle is how long the nodes' last reports take.
const settle = 1500 * time.Millisecond

// measure runs a step and prints what nodes saw, what was sent, and what it cost.
func (c *cluster) measure(ctx context.Context, name string, step func() error) error {
	if name != "start" {
		if _, err := c.do("reset"); err != nil {
			return err
		}
	}
	before, err := c.account()
	if err != nil {
		return err
	}
	began, number := time.Now(), c.number
	if err := step(); err != nil {
		return err
	}
	took := time.Since(began)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	after, err := c.account()
	if err != nil {
		return err
	}
	seen, err := c.do("seen")
	if err != nil {
		return err
	}
	c.print(result{name, int(c.number - number), took, seen, after.since(before)})
	return nil
}

// result is what a step came to.
type result struct {
	step    string
	changes int // that were published
	took    time.Duration
	seen    virtual.Seen
	used    accounts
}
