// SPDX-License-Identifier: Apache-2.0

// Command fleet measures how many nodes one compiler and one NATS server carry: thousands of virtual nodes (see package
// virtual) in a few processes, each with a connection and a credential of its own to a real nats-server, and the real
// compiler. Server, accounts, TLS and seals are those of a deployment. It plays the watcher: facts go straight into STATE.
//
// It promises to leave nothing behind. Nodes, server and compiler share this machine's processors, which on real clusters
// they don't, so each is accounted for alone, and after each step it says which of them took the processors: quote
// latencies with the machine and the number of nodes, and plan with what is counted (messages, bytes, processor time a
// delivery).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// plan is what to measure.
type plan struct {
	bin       string // folder of the built compiler
	nats      string // the nats-server binary
	nodes     int
	processes int
	services  int
	endpoints int // of each Service
	idle      int // changes, one after the other
	rate      int // changes a second under load
	load      time.Duration
	flips     int // changes a second of one endpoint
	flipping  time.Duration
	tick      time.Duration
	steps     []string
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == workerCommand {
		os.Exit(workerMain(os.Stdin, os.Stdout))
	}
	p, steps := plan{}, ""
	flag.StringVar(&p.bin, "bin", "bin", "folder of the built compiler")
	flag.StringVar(&p.nats, "nats-server", ".cache/bin/nats-server", "the nats-server binary")
	flag.IntVar(&p.nodes, "nodes", 1000, "nodes")
	flag.IntVar(&p.processes, "processes", 4, "processes that share the nodes")
	flag.IntVar(&p.services, "services", 100, "services")
	flag.IntVar(&p.endpoints, "endpoints", 5, "endpoints of each service")
	flag.IntVar(&p.idle, "idle-changes", 30, "changes to make one after the other")
	flag.IntVar(&p.rate, "rate", 1000, "changes a second under load")
	flag.DurationVar(&p.load, "load", 20*time.Second, "how long to keep the load up")
	flag.IntVar(&p.flips, "flips", 10_000, "changes a second of the same few endpoints")
	flag.DurationVar(&p.flipping, "flipping", time.Minute, "how long to keep flipping")
	flag.DurationVar(&p.tick, "tick", 250*time.Millisecond, "how often a virtual node is told of the time")
	flag.StringVar(&steps, "steps", "start,quiet,idle,load,restart,cold,reconnect,flips", "what to measure, in order")
	flag.Parse()
	p.steps = strings.Split(steps, ",")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p plan) (err error) {
	steps := map[string]func(context.Context, *cluster, plan) error{
		"start": start, "quiet": quiet, "idle": idle, "load": underLoad, "restart": restart, "cold": cold, "reconnect": reconnect,
		"flips": flips,
	}
	for _, name := range p.steps {
		if steps[name] == nil {
			return fmt.Errorf("--steps: there is no step %q", name)
		}
	}
	c, err := newCluster(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	fmt.Printf("# %d nodes in %d processes, %d services × %d endpoints\n", p.nodes, p.processes, p.services, p.endpoints)
	for _, name := range slices.Clone(p.steps) {
		if err := steps[name](ctx, c, p); err != nil {
			c.keepLogs = true
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
