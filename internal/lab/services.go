// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/trust"
)

// connectTime bounds how long a bus that should be there is looked for, dialTime one attempt.
const (
	connectTime = 15 * time.Second
	dialTime    = 2 * time.Second
)

// startBus starts a bus, or finds the one that was given, and opens it to the nodes; and it makes sure of what services need.
func (l *Lab) startBus(ctx context.Context) (err error) {
	if l.options.NoServices {
		return nil
	}
	needed := []string{"watcher", "compiler", "programmer"}
	if l.options.Machines != nil {
		needed = append(needed, "nats-server")
	}
	for _, name := range needed {
		if _, err := l.binary(name); err != nil {
			return err
		}
	}
	if !l.options.Memory {
		if err := bpf.MountBPFFS(l.dir.bpf()); err != nil {
			return err
		}
	}
	if err := l.startBusServer(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	l.conn, err = bus.Connect(ctx, l.BusOptions())
	return err
}

func (l *Lab) startBusServer() (err error) {
	if err := l.secure(); err != nil {
		return err
	}
	if l.options.Machines != nil {
		return l.startServers()
	}
	if l.options.Bus == "" {
		if l.bus, err = startEmbedded(l.dir.bus(), l); err != nil {
			return err
		}
	}
	if !l.options.Memory {
		l.proxy, err = newProxy(l.fabric.Namespace(), l.BusURL())
	}
	return err
}

// BusOptions say how this process connects to the bus.
func (l *Lab) BusOptions() bus.Options {
	o := bus.Options{URL: l.BusURL(), Name: "lab " + l.options.Name, Log: l.log}
	o.CredentialsFile, o.RootCAFile = l.operator()
	if l.options.Machines != nil {
		o.Dial = l.Dial
	}
	return o
}

// RepairOptions say how people connect who may delete and restore streams.
func (l *Lab) RepairOptions() bus.Options {
	o := l.BusOptions()
	o.Name, o.CredentialsFile = "repair "+l.options.Name, filepath.Join(l.trust.Path(trust.RoleAdmin), trust.FileCredentials)
	return o
}

// urlFor returns the bus's URL as seen from a node.
func (l *Lab) urlFor(n *node) string {
	if l.options.Machines != nil {
		return l.serversURL()
	}
	return l.proxy.urlFor(n.host.Addrs)
}

// startEmbedded takes the port that everyone knows if it is free.
func startEmbedded(folder string, l *Lab) (*embedded.Server, error) {
	options := embedded.Options{Dir: folder, Port: busPort, Trust: l.trust.BusPath(), Log: l.log}
	if probe, err := net.Listen("tcp", "127.0.0.1:4222"); err == nil {
		probe.Close()
		if server, err := embedded.Start(options); err == nil {
			return server, nil
		}
		// Another lab may have been faster. Whatever else is wrong still is with another port.
	}
	options.Port = -1
	return embedded.Start(options)
}

// startServices starts watchers and compilers. They need no node: they run where the lab runs, or on machines.
func (l *Lab) startServices() error {
	if l.options.NoServices {
		return nil
	}
	source := []string{"--source", "directory", "--directory", l.dir.manifests()}
	if l.options.Kubeconfig != "" {
		source = []string{"--source", "kubernetes", "--kubeconfig", l.options.Kubeconfig}
	}
	// People of a lab mean it when they delete everything.
	watcher := slices.Concat(source, l.credentials(trust.RoleWatcher), []string{"--bus", l.BusURL(), "--listen", "", "--max-delete-share", "1"})
	compiler := slices.Concat(l.credentials(trust.RoleCompiler), []string{"--bus", l.BusURL(), "--listen", ""}, l.options.CompilerFlags)
	if m := l.options.Machines; m != nil {
		return errors.Join(l.startReplicas("watcher", m.Watchers, watcher), l.startReplicas("compiler", m.Compilers, compiler))
	}
	return errors.Join(
		l.startService("watcher", "watcher", nil, watcher),
		l.startService("compiler", "compiler", nil, append(compiler, "--replicas", "1")))
}

// startProgrammer starts a node's programmer in the node's network namespace. Its cgroup is not the node's: the way to
// the bus must not depend on what it programs.
func (l *Lab) startProgrammer(name string, n *node, flags ...string) error {
	if l.options.NoServices {
		return nil
	}
	own, err := l.nodeCredentials(name)
	if err != nil {
		return err
	}
	flags = slices.Concat(own, l.options.ProgrammerFlags, flags)
	if l.options.Memory {
		return l.startService("programmer-"+name, "programmer", nil, append([]string{
			"--node", name, "--bus", l.BusURL(), "--listen", "", "--maps", "memory",
		}, flags...))
	}
	return l.startService("programmer-"+name, "programmer", n.namespace, append([]string{
		"--node", name, "--bus", l.urlFor(n), "--listen", "",
		"--cgroup", n.cgroup.Path(), "--pin-dir", l.Pins(name), "--maps", "kernel",
	}, flags...))
}

func (l *Lab) startService(name, binary string, namespace *space.Namespace, args []string) error {
	path, err := l.binary(binary)
	if err != nil {
		return err
	}
	return l.startProcess(name, namespace, func() *exec.Cmd { return exec.Command(path, args...) })
}
