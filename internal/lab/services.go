// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// connectTime bounds how long a bus that should be there is looked for.
const connectTime = 15 * time.Second

// startBus starts a bus, or finds the one that was given, and opens it to the nodes; and it makes sure of what services need.
func (l *Lab) startBus(ctx context.Context) (err error) {
	if l.options.NoServices {
		return nil
	}
	for _, name := range []string{"watcher", "compiler", "programmer"} {
		if _, err := l.binary(name); err != nil {
			return err
		}
	}
	if !l.options.Memory {
		if err := bpf.MountBPFFS(l.dir.bpf()); err != nil {
			return err
		}
	}
	if l.options.Bus == "" {
		if l.bus, err = startEmbedded(l.dir.bus(), l); err != nil {
			return err
		}
	}
	if !l.options.Memory {
		if l.proxy, err = newProxy(l.fabric.Namespace(), l.BusURL()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	l.conn, err = bus.Connect(ctx, bus.Options{URL: l.BusURL(), Name: "lab " + l.options.Name, Log: l.log})
	return err
}

// startEmbedded takes the port that everyone knows if it is free.
func startEmbedded(folder string, l *Lab) (*embedded.Server, error) {
	options := embedded.Options{Dir: folder, Port: busPort, Log: l.log}
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

// startServices starts watcher and compiler. They need no node: they run where the lab runs.
func (l *Lab) startServices() error {
	if l.options.NoServices {
		return nil
	}
	watcher := []string{
		"--bus", l.BusURL(), "--listen", "", "--source", "directory", "--directory", l.dir.manifests(),
		// People of a lab mean it when they delete everything.
		"--max-delete-share", "1",
	}
	if l.options.Kubeconfig != "" {
		watcher = []string{"--bus", l.BusURL(), "--listen", "", "--source", "kubernetes", "--kubeconfig", l.options.Kubeconfig, "--max-delete-share", "1"}
	}
	return errors.Join(
		l.startService("watcher", "watcher", nil, watcher),
		l.startService("compiler", "compiler", nil,
			append([]string{"--bus", l.BusURL(), "--listen", "", "--replicas", "1"}, l.options.CompilerFlags...)))
}

// startProgrammer starts a node's programmer in the node's network namespace. Its cgroup is not the node's: the way to
// the bus must not depend on what it programs.
func (l *Lab) startProgrammer(name string, n *node, flags ...string) error {
	if l.options.NoServices {
		return nil
	}
	flags = slices.Concat(l.options.ProgrammerFlags, flags)
	if l.options.Memory {
		return l.startService("programmer-"+name, "programmer", nil, append([]string{
			"--node", name, "--bus", l.BusURL(), "--listen", "", "--maps", "memory",
		}, flags...))
	}
	return l.startService("programmer-"+name, "programmer", n.namespace, append([]string{
		"--node", name, "--bus", l.proxy.urlFor(n.host.Addrs), "--listen", "",
		"--cgroup", n.cgroup.Path(), "--pin-dir", l.Pins(name), "--maps", "kernel",
	}, flags...))
}

func (l *Lab) startService(name, binary string, namespace *space.Namespace, args []string) error {
	path, err := l.binary(binary)
	if err != nil {
		return err
	}
	var cgroup *space.Cgroup
	if !l.options.Memory {
		if cgroup, err = space.NewCgroup(filepath.Join(l.root.Path(), "services")); err != nil {
			return err
		}
	}
	err = l.fleet.run(name, filepath.Join(l.dir.logs(), name+".log"),
		func() *exec.Cmd { return exec.Command(path, args...) },
		func(cmd *exec.Cmd) error { return space.Start(cmd, namespace, cgroup) })
	if err != nil {
		return fmt.Errorf("the lab's services: %w", err)
	}
	return nil
}
