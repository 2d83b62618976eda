// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// coldStart publishes the whole cluster, then starts the programmers with empty maps.
func coldStart(ctx context.Context, f *fleet, p plan) error {
	began := time.Now()
	if err := f.publish(ctx, f.cluster.All()...); err != nil {
		return err
	}
	for node := range p.nodes {
		programmer, err := f.startProgrammer(node)
		if err != nil {
			return err
		}
		f.programmers = append(f.programmers, programmer)
	}
	if err := f.converge(ctx); err != nil {
		return err
	}
	fmt.Printf("BenchmarkPipeline/cold-start 1 %.2f s\n", time.Since(began).Seconds())
	var writes uint64
	for _, d := range f.reports.take() {
		writes += d.GetWrites()
	}
	fmt.Printf("BenchmarkPipeline/cold-start/writes 1 %.0f writes/node\n", float64(writes)/float64(p.nodes))
	for _, process := range append(f.programmers, f.compiler) {
		if err := report(process, "cold-start"); err != nil {
			return err
		}
	}
	return nil
}

// idle makes ten changes a second, each after all nodes have the one before.
func idle(ctx context.Context, f *fleet, p plan) error {
	ticker := time.NewTicker(time.Second / 10)
	defer ticker.Stop()
	for i := range p.idle {
		<-ticker.C
		if err := f.publish(ctx, f.cluster.Change(i%p.services)); err != nil {
			return err
		}
		if err := f.converge(ctx); err != nil {
			return err
		}
	}
	summary("idle", f.reports.take(), p.idle)
	return nil
}

// underLoad makes changes at a rate, each to a random Service.
func underLoad(ctx context.Context, f *fleet, p plan) error {
	random := rand.New(rand.NewPCG(1, 2)) // the same changes in every run
	before, err := f.cpus()
	if err != nil {
		return err
	}
	const ticks = 100 // a second
	ticker := time.NewTicker(time.Second / ticks)
	defer ticker.Stop()
	changes := 0
	for end := time.Now().Add(p.load); time.Now().Before(end); {
		<-ticker.C
		for range p.rate / ticks {
			if err := f.publish(ctx, f.cluster.Change(random.IntN(p.services))); err != nil {
				return err
			}
			changes++
		}
	}
	if err := f.converge(ctx); err != nil {
		return err
	}
	summary(fmt.Sprintf("load-%d/s", int(float64(changes)/p.load.Seconds())), f.reports.take(), changes)
	after, err := f.cpus()
	if err != nil {
		return err
	}
	for i, process := range append(f.programmers, f.compiler) {
		fmt.Printf("BenchmarkPipeline/load/%s %d %.3f cpu-ms/change\n", process.Name, changes, milli(after[i]-before[i])/float64(changes))
	}
	return nil
}

func (f *fleet) cpus() ([]time.Duration, error) {
	var all []time.Duration
	for _, process := range append(f.programmers, f.compiler) {
		cpu, err := process.CPU()
		if err != nil {
			return nil, err
		}
		all = append(all, cpu)
	}
	return all, nil
}

// restart stops a programmer and starts it on the pinned maps: it must write nothing.
func restart(ctx context.Context, f *fleet, p plan) error {
	if p.maps != "kernel" {
		return nil // memory maps end with the process
	}
	if err := f.programmers[0].Stop(); err != nil {
		return err
	}
	f.reports.mu.Lock()
	delete(f.reports.newest, "node-0")
	f.reports.mu.Unlock()
	f.reports.take()
	var err error
	if f.programmers[0], err = f.startProgrammer(0); err != nil {
		return err
	}
	if err := f.converge(ctx); err != nil {
		return err
	}
	var writes uint64
	for _, d := range f.reports.take() {
		writes += d.GetWrites()
	}
	fmt.Printf("BenchmarkPipeline/restart/writes 1 %d writes\n", writes)
	return report(f.programmers[0], "restart")
}
