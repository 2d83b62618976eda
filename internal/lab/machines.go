// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/deploy/nats"
	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// Machines has the bus and the services run as in a real cluster: each process on a machine of its own on the fabric,
// which is no node. So each can be killed, stopped and cut off by itself. It needs the binary nats-server.
type Machines struct {
	// Servers is how many the bus has, bus-1 and on; streams have as many copies.
	Servers int
	// DiskBytes is the size of each server's disk.
	DiskBytes int64
	// Watchers and Compilers are how many there are, watcher-1, compiler-1 and on.
	Watchers, Compilers int
}

// machine is a host on the fabric for one process, of the same name.
type machine struct{ host *fabric.Host }

// Machines' addresses are 172.30.254.N and fd00:172:30::fffe:N. Those of the bus' servers come first.
func machineAddrs(number int) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{172, 30, 254, byte(number)}),
		netip.MustParseAddr(fmt.Sprintf("fd00:172:30::fffe:%x", number)),
	}
}

func (l *Lab) addMachine(name string) (*machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	host, err := l.fabric.AddHost("machine."+name, name, machineAddrs(len(l.machines)+1), nil)
	if err != nil {
		return nil, err
	}
	m := &machine{host}
	l.machines[name] = m
	return m, nil
}

// startServers starts the servers of the bus, each with a disk of its own.
func (l *Lab) startServers() error {
	if n := l.options.Machines.Servers; n < 1 || n > 5 {
		return fmt.Errorf("%d servers of the bus: want 1 to 5", n)
	}
	for n := range l.options.Machines.Servers {
		name := fmt.Sprintf("bus-%d", n+1)
		m, err := l.addMachine(name)
		if err != nil {
			return err
		}
		if err := l.mountDisk(name); err != nil {
			return err
		}
		file, err := l.configureServer(name)
		if err != nil {
			return err
		}
		path, err := l.binary("nats-server")
		if err != nil {
			return err
		}
		if err := l.startProcess(name, m.host.Namespace, func() *exec.Cmd {
			cmd := exec.Command(path, "--config", file)
			cmd.Env = append(os.Environ(), "NODE_NAME="+name)
			return cmd
		}); err != nil {
			return err
		}
	}
	return nil
}

// configureServer writes the deployed configuration with this lab's addresses and a server's disk: what people change
// in it. It returns the file's path.
func (l *Lab) configureServer(name string) (string, error) {
	var changes []string
	for n := range l.options.Machines.Servers {
		changes = append(changes, fmt.Sprintf("192.0.2.1%d:", n+1), machineAddrs(n + 1)[0].String()+":")
	}
	folder := l.Disk(name) + ".conf"
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	return filepath.Join(folder, nats.Cluster), nats.Place(folder, l.trust.BusPath(), l.Disk(name), changes...)
}

// Disk returns the folder where a server of the bus keeps its streams: a file system of its own.
func (l *Lab) Disk(server string) string { return filepath.Join(l.dir.bus(), server) }

func (l *Lab) mountDisk(server string) error {
	if err := os.MkdirAll(l.Disk(server), 0o755); err != nil {
		return fmt.Errorf("make the disk of %s: %w", server, err)
	}
	if err := unix.Mount("tmpfs", l.Disk(server), "tmpfs", 0, fmt.Sprintf("size=%d", l.options.Machines.DiskBytes)); err != nil {
		return fmt.Errorf("mount the disk of %s: %w", server, err)
	}
	return nil
}

// serversURL is where everybody on the fabric finds the bus.
func (l *Lab) serversURL() string {
	var urls []string
	for n := range l.options.Machines.Servers {
		urls = append(urls, "tls://"+netip.AddrPortFrom(machineAddrs(n + 1)[0], busPort).String())
	}
	return strings.Join(urls, ",")
}

// Dial connects to an address on the fabric, as the bridge sees it: where the machines' bus is reached from outside.
func (l *Lab) Dial(network, address string) (net.Conn, error) {
	return l.DialAt(Bridge, network, address)
}

// DialAt connects to an address as a host sees it, given as for Lose: such as to its own loopback.
func (l *Lab) DialAt(host, network, address string) (conn net.Conn, err error) {
	at, err := l.hostOf(host)
	if err != nil {
		return nil, err
	}
	namespace := l.fabric.Namespace()
	if at != nil {
		namespace = at.Namespace
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	err = namespace.Do(func() error {
		// A literal address: nothing is left to another goroutine, which would be elsewhere.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// startReplicas starts watchers or compilers on machines of their own.
func (l *Lab) startReplicas(service string, replicas int, args []string) error {
	path, err := l.binary(service)
	if err != nil {
		return err
	}
	for n := range replicas {
		name := fmt.Sprintf("%s-%d", service, n+1)
		m, err := l.addMachine(name)
		if err != nil {
			return err
		}
		if err := l.startProcess(name, m.host.Namespace, func() *exec.Cmd {
			return exec.Command(path, slices.Concat(args, []string{"--name", name, "--replicas", strconv.Itoa(l.options.Machines.Servers)})...)
		}); err != nil {
			return err
		}
	}
	return nil
}

// startProcess keeps a process running in the cgroup of services.
func (l *Lab) startProcess(name string, namespace *space.Namespace, command func() *exec.Cmd) error {
	var cgroup *space.Cgroup
	if !l.options.Memory {
		var err error
		if cgroup, err = space.NewCgroup(filepath.Join(l.root.Path(), "services")); err != nil {
			return err
		}
	}
	err := l.fleet.run(name, filepath.Join(l.dir.logs(), name+".log"), command,
		func(cmd *exec.Cmd) error { return space.Start(cmd, namespace, cgroup) })
	if err != nil {
		return errors.Join(errors.New("the lab's services"), err)
	}
	return nil
}
