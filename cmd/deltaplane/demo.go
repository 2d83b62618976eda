// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/shop"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

func newDemoCommand() *cobra.Command {
	var files manifestFlags
	var keep, noKernel bool
	name := lab.DefaultName
	var caller parent
	cmd := &cobra.Command{
		Use:   "demo [-f PATH...]",
		Short: "See the whole pipeline at work, in under a minute",
		Long: `demo runs a small shop, or the cluster of your own YAML, on three nodes made of network namespaces, with the real
services and this kernel. It connects from everywhere to everything, changes pods under load, and shows what each change
cost. Then it takes everything down.

Without root or BPF it runs the same story on maps in memory, and the reference model decides about connections.`,
		Example: `  deltaplane demo
  deltaplane demo -f your.yaml --keep
  deltaplane lab down`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if keep && !caller.detached {
				return detach(cmd, name)
			}
			out := caller.out(cmd)
			defer func() { caller.release(err) }()
			objects := shop.Objects()
			if len(files.paths)+len(args) > 0 {
				if objects, _, err = files.load(cmd, args, io.Discard); err != nil { // the story tells
					return err
				}
				if countAll(objects) == 0 {
					return errors.Join(errors.New("there is nothing to show: no object in these files can be used"), objects.Err())
				}
			}
			d := &demo{out: out, paint: caller.paint(out), objects: objects, name: name}
			if noKernel {
				d.memory = "as asked"
			} else if err := canUseKernel(); err != nil {
				d.memory = err.Error()
			}
			if keep {
				d.keep = caller.release
			}
			return d.run(cmd.Context())
		},
	}
	files.add(cmd)
	caller.addFlags(cmd)
	cmd.Flags().StringVar(&name, "name", lab.DefaultName, "name of the demo's lab, if several run on this machine")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab up for status, dump, audit, lab probe; 'lab down' takes it down")
	cmd.Flags().BoolVar(&noKernel, "no-kernel", false, "use maps in memory and the reference model, even if this kernel could be used")
	return cmd
}

func canUseKernel() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and BPF need root")
	}
	return bpf.Probe()
}

// run tells the story from start to end. Whatever happens, the lab is taken down, unless it is to be kept.
func (d *demo) run(ctx context.Context) (err error) {
	d.opening()
	if err := d.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- d.lab.Serve(serving) }()
	defer func() { stop(); err = errors.Join(err, <-served) }()
	for _, step := range []func(context.Context) error{
		d.services, d.connect, d.change, d.converged, d.costs, d.refusal, d.policy,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.summary()
	if d.failed {
		err = exitStatus(exitNotHealthy)
	}
	if d.keep != nil {
		d.keeping()
		d.keep(err)
		<-ctx.Done()
	}
	return err
}

// start builds the lab: bus, nodes, pods.
func (d *demo) start(ctx context.Context) error {
	for _, e := range d.objects.SetAside {
		d.note("set aside: %v", e)
	}
	if left, err := lab.ReadState(d.name); err != nil && left.Process.PID != 0 {
		// An earlier run was killed before it could clean up.
		if _, err := lab.Down(ctx, d.name); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	watch := d.stopwatch()
	l, err := lab.Up(ctx, d.objects, lab.Options{Name: d.name, Memory: d.memory != "", Log: log})
	if err != nil {
		return err
	}
	d.lab = l
	d.step("bus", "NATS with JetStream, inside this process: %s", l.BusURL())
	cluster := l.Cluster()
	what := "made of network namespaces, cgroups and veth pairs"
	if d.memory != "" {
		what = "whose maps are in memory"
	}
	d.step("lab", "%s with %s and %s, from %s of YAML, %s (%s)", counted(len(cluster.Nodes), "node"), counted(len(cluster.Pods), "pod"),
		counted(len(cluster.Services), "Service"), counted(countAll(d.objects), "object"), what, watch())
	return nil
}

func countAll(objects *manifest.Objects) (n int) {
	for range objects.All() {
		n++
	}
	return n
}

// services waits for the first convergence.
func (d *demo) services(ctx context.Context) error {
	watch := d.stopwatch()
	if err := d.listen(); err != nil {
		return err
	}
	if err := converge(ctx, d.lab); err != nil {
		return err
	}
	status, err := d.lab.Status(ctx)
	if err != nil {
		return err
	}
	d.step("services", "watcher, compiler and %s run; every node has its rows at revision %d, of %d in the cluster (%s)",
		counted(len(d.lab.Nodes()), "programmer"), status.GetRevision(), status.GetRows(), watch())
	for _, s := range status.GetSetAside() {
		d.note("%sset aside: %s: %s", indent, refName(s.GetObject()), s.GetReason())
	}
	return nil
}

// keeping says what can be done with a lab that stays.
func (d *demo) keeping() {
	d.say("")
	d.say(fmt.Sprintf("The lab stays up until '%s'. Try:", lab.DownCommand(d.name)))
	for _, line := range []string{
		"deltaplane status", "deltaplane dump --node " + d.lab.Nodes()[0], "deltaplane audit tail --since 10m",
	} {
		d.say("  " + line)
	}
	if len(d.sources) > 0 && len(d.targets) > 0 {
		d.say(fmt.Sprintf("  deltaplane lab probe%s --from %s --to %s", lab.NameFlag(d.name), d.sources[0].name, d.targets[0].address(4)))
	}
}

// end takes the lab down, also after Ctrl-C.
func (d *demo) end() error {
	watch := d.stopwatch()
	if err := d.lab.Shutdown(); err != nil {
		return fmt.Errorf("clean up: %w; try: %s", err, lab.DownCommand(d.name))
	}
	if d.keep != nil {
		return nil // nobody reads this any more
	}
	what := "processes, namespaces, programs, maps"
	if d.memory != "" {
		what = "processes"
	}
	d.say("")
	d.say(d.paint.faint(fmt.Sprintf("Everything is taken down: %s (%s).", what, watch())))
	return nil
}
