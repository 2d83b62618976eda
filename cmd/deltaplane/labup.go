// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// labUp is what `lab up` is told.
type labUp struct {
	files   manifestFlags
	nodes   int
	source  string
	bus     string
	detach  bool
	readyFD int
}

func newLabUpCommand(name *string) *cobra.Command {
	var up labUp
	cmd := &cobra.Command{
		Use:   "up -f PATH...",
		Short: "Build a lab and keep it up",
		Long: `up builds the cluster that the YAML describes and says when every node has it. It stays in the foreground, and
Ctrl-C takes the lab down; with --detach it returns once every node is converged, and 'lab down' takes the lab down.`,
		Example: `  deltaplane lab up -f shop.yaml
  deltaplane lab up -f manifests/ --nodes 5 --detach
  deltaplane lab up -f shop.yaml --source kubeconfig=$HOME/.kube/config`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needRoot("run a lab"); err != nil {
				return err
			}
			if err := bpf.Probe(); err != nil {
				return fmt.Errorf("run a lab: %w", err)
			}
			if up.detach {
				return detach(cmd, *name)
			}
			return up.run(cmd, args, *name)
		},
	}
	up.files.add(cmd)
	flags := cmd.Flags()
	flags.IntVar(&up.nodes, "nodes", 3, "how many nodes to make if the YAML has none")
	flags.StringVar(&up.source, "source", "file", "where the watcher gets objects from: file, or kubeconfig=PATH for a real API server that the lab writes to")
	flags.StringVar(&up.bus, "bus", "embedded", "embedded, or the URL of a NATS server with JetStream")
	flags.BoolVar(&up.detach, "detach", false, "return when every node is converged and leave the lab running")
	flags.IntVar(&up.readyFD, "ready-fd", 0, "descriptor to tell a parent on")
	must(flags.MarkHidden("ready-fd"))
	return cmd
}

func (u *labUp) options(name string, log *slog.Logger) (lab.Options, error) {
	options := lab.Options{Name: name, Nodes: u.nodes, Log: log}
	if u.nodes < 1 || u.nodes > 200 {
		return options, fmt.Errorf("--nodes %d: want 1 to 200", u.nodes)
	}
	if u.bus != "embedded" {
		options.Bus = u.bus
	}
	if path, ok := strings.CutPrefix(u.source, "kubeconfig="); ok && path != "" {
		options.Kubeconfig = path
	} else if u.source != "file" {
		return options, fmt.Errorf("--source %q: want file or kubeconfig=PATH", u.source)
	}
	return options, nil
}

func (u *labUp) run(cmd *cobra.Command, args []string, name string) error {
	ready := u.ready()
	err := u.serve(cmd, args, name, ready)
	if err != nil && !errors.Is(err, context.Canceled) {
		ready(err.Error())
	}
	return err
}

func (u *labUp) serve(cmd *cobra.Command, args []string, name string, ready func(string)) error {
	ctx := cmd.Context()
	objects, _, err := u.files.load(cmd, args)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	options, err := u.options(name, log)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, objects, options)
	if err != nil {
		return err
	}
	defer takeDown(cmd, l)
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- l.Serve(serving) }()
	defer func() { stop(); <-served }()
	if err := converge(ctx, l); err != nil {
		return err
	}
	tell(cmd.OutOrStdout(), name, l)
	ready("")
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		served <- nil
		return err
	}
}

func converge(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, lab.ChangeTimeout)
	defer cancel()
	return l.Converged(ctx)
}

// takeDown is for every way out. What went wrong with it isn't why the command ends, but the person must know.
func takeDown(cmd *cobra.Command, l *lab.Lab) {
	if err := l.Shutdown(); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "taking the lab down:", err)
	}
}

func tell(w io.Writer, name string, l *lab.Lab) {
	cluster := l.Cluster()
	fmt.Fprintf(w, "lab %s is up: %d nodes, %d pods, %d Services; every node is converged\n", name, len(cluster.Nodes), len(cluster.Pods), len(cluster.Services))
	for _, s := range cluster.Services {
		for _, p := range s.Spec.Ports {
			fmt.Fprintf(w, "  %-24s %s %d  %s\n", manifest.Name(s), p.Protocol, p.Port, strings.Join(s.Spec.ClusterIPs, " "))
		}
	}
	fmt.Fprintf(w, "bus %s, logs in %s\n", l.BusURL(), l.Logs())
}

// ready tells the parent that waits, if there is one: nothing for success, else the error.
func (u *labUp) ready() func(string) {
	if u.readyFD == 0 {
		return func(string) {}
	}
	parent := os.NewFile(uintptr(u.readyFD), "parent")
	return func(text string) {
		// A parent that has gone needs no answer.
		_, _ = io.WriteString(parent, text)
		_ = parent.Close()
	}
}

// detach runs the same command in a session of its own and waits until it is ready.
func detach(cmd *cobra.Command, name string) error {
	log, err := lab.LogFile(name)
	if err != nil {
		return err
	}
	defer log.Close()
	told, tells, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	defer told.Close()
	child := exec.Command("/proc/self/exe", append(os.Args[1:], "--detach=false", "--ready-fd=3")...)
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), log, log
	child.ExtraFiles = []*os.File{tells}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	tells.Close()
	stop := context.AfterFunc(cmd.Context(), func() { _ = child.Process.Signal(syscall.SIGTERM) })
	text, err := io.ReadAll(told)
	if !stop() {
		return errors.Join(cmd.Context().Err(), child.Wait())
	}
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	said, err := os.ReadFile(log.Name())
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	if len(text) > 0 {
		return errors.Join(errors.New(string(text)), ignoreExit(child.Wait()))
	}
	if _, err := lab.ReadState(name); err != nil {
		return fmt.Errorf("start the lab: it ended at once: %s", bytes.TrimSpace(said))
	}
	_, err = cmd.OutOrStdout().Write(said)
	return err
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}
