// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// ProbeTimeout is how long one attempt may take if nothing else is said.
const ProbeTimeout = 2 * time.Second

// ProbeRequest asks for connections from one place to a target.
type ProbeRequest struct {
	From        string        `json:"from"`  // NS/POD, node/NAME or outside
	To          string        `json:"to"`    // HOST:PORT, NS/SVC:PORT or NS/POD:PORT
	Protocol    string        `json:"proto"` // tcp, udp or sctp; empty is tcp
	Family      int           `json:"family,omitempty"`
	SourcePort  uint16        `json:"sourcePort,omitempty"`
	Count       int           `json:"count,omitempty"`
	Timeout     time.Duration `json:"timeout,omitempty"`
	HTTP        bool          `json:"http,omitempty"`
	Unconnected bool          `json:"unconnected,omitempty"`
	// Via is the node that an outside client sends its packets to, as node/NAME; empty is the first one.
	Via string `json:"via,omitempty"`
	// Stream keeps one socket for all attempts, Interval apart.
	Stream   bool          `json:"stream,omitempty"`
	Interval time.Duration `json:"interval,omitempty"`
}

// ProbeReport is what came of it. Its JSON is stable.
type ProbeReport struct {
	From     string         `json:"from"`
	To       string         `json:"to"`
	Protocol string         `json:"proto"`
	Results  []agent.Result `json:"results"`
}

// Probe connects as asked, from inside the place.
func (l *Lab) Probe(ctx context.Context, r ProbeRequest) (*ProbeReport, error) {
	if l.options.Memory {
		return l.judge(ctx, r)
	}
	client, target, err := l.aim(&r)
	if err != nil {
		return nil, err
	}
	results, err := client.Probe(ctx, target, r.Count, r.Interval)
	if err != nil {
		return nil, fmt.Errorf("probe from %s: %w", r.From, err)
	}
	return &ProbeReport{r.From, r.To, r.Protocol, results}, nil
}

// Load connects again and again until the function that it returns is called, which tells what came of it.
func (l *Lab) Load(r ProbeRequest, interval time.Duration) (func(context.Context) (*agent.Load, error), error) {
	if l.options.Memory {
		return l.judgeOnAndOn(r, interval), nil
	}
	client, target, err := l.aim(&r)
	if err != nil {
		return nil, err
	}
	return client.Load(target, interval)
}

func (l *Lab) aim(r *ProbeRequest) (*agent.Client, agent.Target, error) {
	r.Protocol = strings.ToLower(r.Protocol)
	if r.Protocol == "" {
		r.Protocol = "tcp"
	}
	if r.Timeout <= 0 {
		r.Timeout = ProbeTimeout
	}
	from, err := l.place(r.From)
	if err != nil {
		return nil, agent.Target{}, err
	}
	to, err := l.Resolve(r.To, r.Family)
	if err != nil {
		return nil, agent.Target{}, err
	}
	mark, err := l.markOf(r.From, r.Via)
	if err != nil {
		return nil, agent.Target{}, err
	}
	client, err := from.client()
	if err != nil {
		return nil, agent.Target{}, err
	}
	return client, agent.Target{
		Protocol: r.Protocol, Address: to, SourcePort: r.SourcePort, Timeout: r.Timeout, HTTP: r.HTTP,
		Unconnected: r.Unconnected, Stream: r.Stream, Mark: mark,
	}, nil
}

// markOf returns what sends a socket of an outside client through a node; 0 leaves it to its routes.
func (l *Lab) markOf(from, via string) (int, error) {
	name, isNode := strings.CutPrefix(via, "node/")
	switch n := l.node(name); {
	case via == "":
		return 0, nil
	case l.clientOf(from) == nil:
		return 0, fmt.Errorf("via %s: only an outside client can choose, and this is from %s", via, from)
	case !isNode || n == nil:
		return 0, fmt.Errorf("via %q: there is no such node: want node/NAME; there are %s", via, strings.Join(l.Nodes(), ", "))
	default:
		return n.host.Mark(), nil
	}
}

// place finds where a name points to. A workload's name, or that with a number, stands for one of its pods.
func (l *Lab) place(name string) (*place, error) {
	if c := l.clientOf(name); c != nil {
		return c.place, nil
	}
	if node, ok := strings.CutPrefix(name, "node/"); ok {
		if n := l.node(node); n != nil {
			return n.place, nil
		}
		return nil, fmt.Errorf("there is no node %q; there are %s", node, strings.Join(l.Nodes(), ", "))
	}
	object := findPod(l.Cluster(), name)
	if object == nil {
		return nil, fmt.Errorf("there is no pod %q: want NS/POD, node/NAME or outside", name)
	}
	if p := l.pod(manifest.Name(object)); p != nil {
		return p.place, nil
	}
	return nil, fmt.Errorf("pod %s doesn't run", name)
}

// findPod finds a pod by namespace/name. namespace/WORKLOAD is the workload's first pod, namespace/WORKLOAD-N its
// N-th from 0.
func findPod(cluster *manifest.Objects, name string) *corev1.Pod {
	if !strings.Contains(name, "/") {
		name = "default/" + name
	}
	owned := map[string][]*corev1.Pod{}
	for _, p := range cluster.Pods {
		if manifest.Name(p) == name {
			return p
		}
		if _, owner, ok := strings.Cut(manifest.OwnerOf(p), " "); ok {
			owned[owner] = append(owned[owner], p)
		}
	}
	if pods := owned[name]; len(pods) > 0 {
		return pods[0]
	}
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		number, err := strconv.Atoi(name[i+1:])
		if pods := owned[name[:i]]; err == nil && number >= 0 && number < len(pods) {
			return pods[number]
		}
	}
	return nil
}

// Resolve finds the address and port that a target stands for. family is 4, 6 or 0 for the target's first.
func (l *Lab) Resolve(target string, family int) (netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(target)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target %q: want HOST:PORT, NS/SVC:PORT or NS/POD:PORT", target)
	}
	cluster := l.Cluster()
	if addr, err := netip.ParseAddr(host); err == nil {
		port, err := parsePort(portText, nil)
		return netip.AddrPortFrom(addr, port), err
	}
	addrs, ports := addressesOf(cluster, host)
	if len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("target %q: there is no Service, pod or node of that name with an address", target)
	}
	port, err := parsePort(portText, ports)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target %q: %w", target, err)
	}
	for _, addr := range addrs {
		if family == 0 || addr.Is4() == (family == 4) {
			return netip.AddrPortFrom(addr, port), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("target %q has no IPv%d address", target, family)
}

// addressesOf finds a Service first, then a pod, then a node; and the numbers of named ports.
func addressesOf(cluster *manifest.Objects, name string) ([]netip.Addr, map[string]uint16) {
	ports := map[string]uint16{}
	if node, ok := strings.CutPrefix(name, "node/"); ok {
		for _, n := range cluster.Nodes {
			if n.Name == node {
				return manifest.NodeAddrs(n), nil
			}
		}
		return nil, nil
	}
	if !strings.Contains(name, "/") {
		name = "default/" + name
	}
	for _, s := range cluster.Services {
		if manifest.Name(s) == name {
			for _, p := range s.Spec.Ports {
				ports[p.Name] = uint16(p.Port)
			}
			return manifest.ServiceAddrs(s), ports
		}
	}
	p := findPod(cluster, name)
	if p == nil {
		return nil, nil
	}
	for c := range manifest.PortContainers(&p.Spec) {
		for _, port := range c.Ports {
			ports[port.Name] = uint16(port.ContainerPort)
		}
	}
	return manifest.PodAddrs(p), ports
}

func parsePort(text string, named map[string]uint16) (uint16, error) {
	if port, ok := named[text]; ok && text != "" {
		return port, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q: want 1 to 65535, or a port's name", text)
	}
	return uint16(port), nil
}
