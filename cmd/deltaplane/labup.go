// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/schemas"
)

// labUp is what `lab up` is told.
type labUp struct {
	files  manifestFlags
	nodes  int
	source string
	bus    string
	config string
	detach bool
	parent parent
}

func newLabUpCommand(name *string) *cobra.Command {
	var up labUp
	cmd := &cobra.Command{
		Use:   "up -f PATH...",
		Short: "Build a lab and keep it up",
		Long: `up builds the cluster that the YAML describes and says when every node has it. It stays in the foreground, and
Ctrl-C takes the lab down; with --detach it returns once every node is converged, and 'lab down' takes the lab down.

The configuration file (--config) is the one that explain takes: podCIDRs, serviceCIDRs, nodePortAddresses,
allowExternalIPs (lists of CIDRs), forwarding, masqueradeAll, localhostNodePorts.`,
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
			if up.detach && !up.parent.detached {
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
	flags.StringVar(&up.config, "config", "", "`file` with the cluster's settings")
	flags.BoolVar(&up.detach, "detach", false, "return when every node is converged and leave the lab running")
	up.parent.addFlags(cmd)
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
	if u.config != "" {
		config, err := explain.LoadConfig(u.config)
		if err != nil {
			return options, err
		}
		configure(&options, config)
	}
	if path, ok := strings.CutPrefix(u.source, "kubeconfig="); ok && path != "" {
		options.Kubeconfig = path
	} else if u.source != "file" {
		return options, fmt.Errorf("--source %q: want file or kubeconfig=PATH", u.source)
	}
	return options, nil
}

func (u *labUp) run(cmd *cobra.Command, args []string, name string) (err error) {
	out := u.parent.out(cmd)
	defer func() { u.parent.release(err) }()
	ctx := cmd.Context()
	objects, _, err := u.files.load(cmd, args, u.parent.complaints(cmd))
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
	defer func() { stop(); err = errors.Join(err, <-served) }()
	if err := converge(ctx, l); err != nil {
		return err
	}
	tell(ctx, out, name, l)
	u.parent.release(nil)
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		served <- nil // for the deferred look
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

// counted counts things in words.
func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// refName is an object as people write it.
func refName(o *schemas.ObjectRef) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// reachedBy lists the addresses of a Service, and the port that nodes serve it on.
func reachedBy(s *corev1.Service, p corev1.ServicePort) string {
	all := slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs)
	for _, in := range s.Status.LoadBalancer.Ingress {
		all = append(all, cmp.Or(in.IP, in.Hostname))
	}
	if p.NodePort != 0 {
		all = append(all, fmt.Sprintf("nodePort %d", p.NodePort))
	}
	return strings.Join(all, " ")
}

// tell says what is there, and which objects the compiler has set aside.
func tell(ctx context.Context, w io.Writer, name string, l *lab.Lab) {
	cluster := l.Cluster()
	fmt.Fprintf(w, "lab %s is up: %s, %s, %s; every node is converged\n", name,
		counted(len(cluster.Nodes), "node"), counted(len(cluster.Pods), "pod"), counted(len(cluster.Services), "Service"))
	for _, s := range cluster.Services {
		for _, p := range s.Spec.Ports {
			fmt.Fprintf(w, "  %-24s %s %d  %s\n", manifest.Name(s), p.Protocol, p.Port, reachedBy(s, p))
		}
	}
	if status, err := l.Status(ctx); err == nil {
		for _, s := range status.GetSetAside() {
			fmt.Fprintf(w, "set aside: %s: %s\n", refName(s.GetObject()), s.GetReason())
		}
	}
	fmt.Fprintf(w, "bus %s, logs in %s\n", l.BusURL(), l.Logs())
}
