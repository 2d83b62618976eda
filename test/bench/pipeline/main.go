// SPDX-License-Identifier: Apache-2.0

// Command pipeline measures the real services over a real bus: how long a change takes from its trigger to the
// kernel of every node, what it costs there, and what a cold start costs. It plays the watcher, so that the rate of
// changes is its own to set; compiler and programmers are the built binaries.
//
// It promises to leave nothing behind: its processes, cgroups, mounts and folders end with it. Latencies are of this
// machine at this moment; quote them with the machine, the commit and the command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// plan is what to measure.
type plan struct {
	bin       string // folder of the built binaries
	maps      string // "kernel" or "memory"
	nodes     int
	services  int
	endpoints int // of each Service
	idle      int // changes, one after the other
	rate      int // changes a second under load
	load      time.Duration
}

func main() {
	var p plan
	flag.StringVar(&p.bin, "bin", "bin", "folder of the built binaries")
	flag.StringVar(&p.maps, "maps", "kernel", "kernel (needs root) or memory")
	flag.IntVar(&p.nodes, "nodes", 3, "nodes")
	flag.IntVar(&p.services, "services", 5000, "services")
	flag.IntVar(&p.endpoints, "endpoints", 50, "endpoints of each service")
	flag.IntVar(&p.idle, "idle-changes", 200, "changes to make one after the other")
	flag.IntVar(&p.rate, "rate", 1000, "changes a second under load")
	flag.DurationVar(&p.load, "load", 10*time.Second, "how long to keep the load up")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "pipeline:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p plan) (err error) {
	f, err := startFleet(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()

	fmt.Printf("# %d nodes, %s maps, %d services × %d endpoints\n", p.nodes, p.maps, p.services, p.endpoints)
	steps := []struct {
		name string
		do   func(context.Context, *fleet, plan) error
	}{
		{"cold start", coldStart},
		{"idle", idle},
		{"load", underLoad},
		{"programmer restart", restart},
	}
	for _, step := range steps {
		if err := step.do(ctx, f, p); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}
