// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/cgroup"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// fleet is a bus, a compiler and the programmers.
type fleet struct {
	plan
	dir         string
	cgroup      string
	server      *embedded.Server
	conn        *bus.Conn
	fence       *bus.Fence
	reports     *reports
	compiler    *stage.Process
	programmers []*stage.Process
	cluster     *stage.Cluster
	published   uint64 // the newest Fact's sequence in STATE
}

func startFleet(ctx context.Context, p plan) (_ *fleet, err error) {
	f := &fleet{plan: p, cluster: stage.NewCluster(p.services, p.endpoints, 0)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if f.dir, err = os.MkdirTemp("", "deltaplane-bench-"); err != nil {
		return nil, err
	}
	if err := f.prepareKernel(); err != nil {
		return nil, err
	}
	if f.server, err = embedded.Start(embedded.Options{}); err != nil {
		return nil, err
	}
	if f.conn, err = bus.Connect(ctx, bus.Options{URL: f.server.URL(), Name: "pipeline benchmark"}); err != nil {
		return nil, err
	}
	if err := f.conn.EnsureStreams(ctx, 1, schemas.Streams...); err != nil {
		return nil, err
	}
	if f.fence, err = f.conn.TakeEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch, "pipeline"); err != nil {
		return nil, err
	}
	if f.reports, err = listen(f.conn); err != nil {
		return nil, err
	}
	f.compiler, err = f.start("compiler", "compiler")
	return f, err
}

// prepareKernel makes a cgroup with nobody in it and a bpffs, if kernel maps are wanted.
func (f *fleet) prepareKernel() error {
	if f.maps != "kernel" {
		return nil
	}
	root, err := cgroup.Root()
	if err != nil {
		return err
	}
	f.cgroup = filepath.Join(root, filepath.Base(f.dir))
	if err := os.Mkdir(f.cgroup, 0o755); err != nil {
		return fmt.Errorf("make a cgroup for the programmers (or use --maps memory): %w", err)
	}
	return bpf.MountBPFFS(f.dir)
}

func (f *fleet) startProgrammer(node int) (*stage.Process, error) {
	name := fmt.Sprintf("node-%d", node)
	args := []string{"--node", name, "--maps", f.maps}
	if f.maps == "kernel" {
		own := filepath.Join(f.cgroup, name)
		if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		// They share a network namespace, which has one device between nodes.
		args = append(args, "--cgroup", own, "--pin-dir", filepath.Join(f.dir, name), "--tunnel-port", "0")
	}
	return f.start("programmer", name, args...)
}

func (f *fleet) start(binary, name string, args ...string) (*stage.Process, error) {
	cmd := exec.Command(filepath.Join(f.bin, binary), append([]string{"--bus", f.server.URL(), "--listen", ""}, args...)...)
	p, err := stage.Start(name, filepath.Join(os.TempDir(), "deltaplane-bench-"+name+".log"), cmd)
	if err != nil {
		return nil, fmt.Errorf("%w (make build first)", err)
	}
	return p, nil
}

// report prints what a process has cost so far.
func report(p *stage.Process, step string) error {
	cpu, err := p.CPU()
	rss, err2 := p.PeakRSS()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	fmt.Printf("BenchmarkPipeline/%s/%s 1 %.2f cpu-s %d peak-MiB\n", step, p.Name, cpu.Seconds(), rss)
	return nil
}

func (f *fleet) publish(ctx context.Context, facts ...*schemas.Fact) error {
	records := make([]bus.Record, len(facts))
	for i, fact := range facts {
		var err error
		if records[i], err = stage.Record(fact); err != nil {
			return err
		}
	}
	for len(records) > 0 {
		n := min(len(records), 200)
		sequence, err := f.fence.Append(ctx, records[:n])
		if err != nil {
			return err
		}
		f.published = sequence
		records = records[n:]
	}
	return nil
}

func (f *fleet) converge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return f.reports.waitFor(ctx, f.conn, f.published, f.nodes)
}

func (f *fleet) stop() (err error) {
	for _, p := range append(f.programmers, f.compiler) {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}
	if f.conn != nil {
		f.conn.Close()
	}
	if f.server != nil {
		f.server.Shutdown()
	}
	if f.cgroup != "" {
		for node := range f.nodes {
			pins := filepath.Join(f.dir, fmt.Sprintf("node-%d", node))
			err = errors.Join(err, bpf.RemovePins(pins))
			_ = os.Remove(filepath.Join(f.cgroup, filepath.Base(pins))) // may never have been made
		}
		err = errors.Join(err, syscall.Unmount(f.dir, 0), os.Remove(f.cgroup))
	}
	return errors.Join(err, os.RemoveAll(f.dir))
}
