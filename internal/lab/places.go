// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/server"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// place is where client processes run: a network namespace and a cgroup.
type place struct {
	name      string
	namespace *space.Namespace
	cgroup    *space.Cgroup
	command   []string

	mu    sync.Mutex
	agent *agent.Client // nil until it is needed
}

// node is a Node's namespace and cgroup.
type node struct {
	*place
	host   *fabric.Host
	cgroup *space.Cgroup // the node's, with those of its pods below
}

// pod is a Pod's namespace, cgroup and server. One on the host network has its node's namespace.
type pod struct {
	*place
	wire   *fabric.Pod // nil on the host network
	server *server.Server
	object *corev1.Pod
}

func (l *Lab) newPlace(name string, namespace *space.Namespace, cgroup string) (*place, error) {
	c, err := space.NewCgroup(cgroup)
	if err != nil {
		return nil, err
	}
	return &place{name: name, namespace: namespace, cgroup: c, command: l.options.Agent}, nil
}

// client returns the place's agent, started if need be.
func (p *place) client() (*agent.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.agent != nil && !p.agent.Ended() {
		return p.agent, nil
	}
	c, err := agent.Start(exec.Command(p.command[0], p.command[1:]...), func(cmd *exec.Cmd) error {
		return space.Start(cmd, p.namespace, p.cgroup)
	})
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", p.name, err)
	}
	p.agent = c
	return c, nil
}

func (p *place) closeAgent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.agent != nil {
		p.agent.Close()
		p.agent = nil
	}
}

// addNode makes a node's namespace, its cgroup and its programmer.
func (l *Lab) addNode(object *corev1.Node) error {
	if l.options.Memory {
		n := &node{place: &place{name: "node/" + object.Name}}
		l.mu.Lock()
		l.nodes[object.Name] = n
		l.mu.Unlock()
		return l.startProgrammer(object.Name, n)
	}
	host, err := l.fabric.AddHost("node."+object.Name, object.Name, manifest.NodeAddrs(object), manifest.NodePodCIDRs(object))
	if err != nil {
		return err
	}
	cgroup := filepath.Join(l.root.Path(), "node."+object.Name)
	place, err := l.newPlace("node/"+object.Name, host.Namespace, filepath.Join(cgroup, "host"))
	if err != nil {
		return err
	}
	n := &node{place: place, host: host, cgroup: space.OpenCgroup(cgroup)}
	l.mu.Lock()
	l.nodes[object.Name] = n
	l.mu.Unlock()
	return l.startProgrammer(object.Name, n)
}

func (l *Lab) removeNode(ctx context.Context, name string) error {
	l.mu.Lock()
	n := l.nodes[name]
	delete(l.nodes, name)
	l.mu.Unlock()
	n.closeAgent()
	l.fleet.end("programmer-" + name)
	if l.options.Memory {
		return nil
	}
	return errors.Join(l.fabric.RemoveHost(n.host), n.cgroup.Remove(ctx))
}

// addPod makes a pod's namespace and lets it serve, before anyone hears of it.
func (l *Lab) addPod(object *corev1.Pod) error {
	name := manifest.Name(object)
	l.mu.Lock()
	n := l.nodes[object.Spec.NodeName]
	l.mu.Unlock()
	if n == nil {
		return fmt.Errorf("pod %s: there is no node %q", name, object.Spec.NodeName)
	}
	p := &pod{object: object}
	if l.options.Memory {
		p.place = &place{name: name}
		l.mu.Lock()
		l.pods[name] = p
		l.mu.Unlock()
		return nil
	}
	namespace, addrs := n.host.Namespace, manifest.PodAddrs(object)
	if !object.Spec.HostNetwork {
		wire, err := l.fabric.AddPod("pod."+object.Namespace+"."+object.Name, name, n.host, addrs)
		if err != nil {
			return err
		}
		p.wire, namespace = wire, wire.Namespace
	}
	place, err := l.newPlace(name, namespace, filepath.Join(n.cgroup.Path(), "pod."+object.Namespace+"."+object.Name))
	if err != nil {
		return err
	}
	p.place = place
	l.mu.Lock()
	l.pods[name] = p
	l.mu.Unlock()
	return l.serve(p, addrs)
}

func (l *Lab) serve(p *pod, addrs []netip.Addr) error {
	hostname := p.object.Spec.Hostname
	if hostname == "" {
		hostname = p.object.Name
	}
	s := server.New(p.name, hostname, l.log)
	p.server = s
	// Whoever shares the pod's network reaches it by the loopback too.
	listen := append(slices.Clip(addrs), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	return p.namespace.Do(func() error {
		for _, port := range portsOf(p.object) {
			err := s.Listen(listen, port)
			if errors.Is(err, server.ErrNoSCTP) || err != nil && p.object.Spec.HostNetwork {
				l.log.Warn("a port isn't served", "pod", p.name, "error", err)
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func portsOf(object *corev1.Pod) []server.Port {
	seen := map[server.Port]bool{}
	var ports []server.Port
	for container := range manifest.PortContainers(&object.Spec) {
		for _, p := range container.Ports {
			port := server.Port{Protocol: string(p.Protocol), Number: uint16(p.ContainerPort)}
			if port.Protocol == "" {
				port.Protocol = "TCP"
			}
			if !seen[port] {
				seen[port] = true
				ports = append(ports, port)
			}
		}
	}
	return ports
}

func (l *Lab) removePod(ctx context.Context, name string) error {
	l.mu.Lock()
	p := l.pods[name]
	delete(l.pods, name)
	l.mu.Unlock()
	if p == nil || l.options.Memory {
		return nil
	}
	p.closeAgent()
	if p.server != nil {
		p.server.Close()
	}
	err := p.cgroup.Remove(ctx)
	if p.wire != nil {
		err = errors.Join(err, p.wire.Close())
	}
	return err
}

// State describes the lab for other processes.
func (l *Lab) State() State {
	state := State{Name: l.dir.name(), Bus: l.BusURL(), Logs: l.Logs(), Services: l.fleet.processes()}
	state.Credentials, state.CA = l.operator()
	if self, err := space.ProcessOf(os.Getpid()); err == nil {
		state.Process = self
	}
	add := func(p *place) {
		if p.namespace == nil {
			return
		}
		state.Places = append(state.Places, Place{p.name, p.namespace.Path(), p.cgroup.Path()})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(l.clients)) {
		add(l.clients[name].place)
	}
	for _, n := range l.cluster.Nodes {
		if known := l.nodes[n.Name]; known != nil {
			add(known.place)
		}
	}
	for _, o := range l.cluster.Pods {
		if known := l.pods[manifest.Name(o)]; known != nil {
			add(known.place)
		}
	}
	return state
}
