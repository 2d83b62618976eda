// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// steady is a cluster where shop/keep on node-1 stays whatever becomes of the other pods of its Services. To the
// addresses of shop/known the sockets of pods are not translated, but their packets: those of shop/sender, which has no
// other sockets, since one port towards one backend can't be of both kinds.
const steady = `
apiVersion: v1
kind: Pod
metadata: {name: keep, namespace: shop, labels: {tier: web}}
spec: {nodeName: node-1, containers: [{name: main, ports: [{name: http, containerPort: 8080}, {name: quote, containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-2, containers: [{name: main, ports: [{containerPort: 1}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: sender, namespace: shop}
spec: {nodeName: node-2, containers: [{name: main, ports: [{containerPort: 1}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {tier: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}, {name: quote, port: 53, protocol: UDP, targetPort: quote, nodePort: 30053}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.80}, {ip: "2001:db8:1::80"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: known, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  loadBalancerSourceRanges: [0.0.0.0/0, "::/0"]
  selector: {tier: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: quote, port: 53, protocol: UDP, targetPort: quote}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.81}, {ip: "2001:db8:1::81"}]}}
`

// another is a pod of the same Services that comes and goes.
const another = `
apiVersion: v1
kind: Pod
metadata: {name: roll-%d, namespace: shop, labels: {tier: web}}
spec: {nodeName: node-%d, containers: [{name: main, ports: [{name: http, containerPort: 8080}, {name: quote, containerPort: 53, protocol: UDP}]}]}
`

// route is how clients go to a Service: from a place to the ports of TCP and UDP.
type route struct {
	name, from, via, tcp, udp string
	family                    int
}

// routes are translated per socket (of a pod, of a node) and per packet (of a pod, and from outside with the backend
// on the node that is dialled or on the other one).
var routes = []route{
	{name: "a pod's sockets", from: "shop/client", tcp: "shop/web:http", udp: "shop/web:quote", family: 4},
	{name: "a pod's sockets, v6", from: "shop/client", tcp: "shop/web:http", udp: "shop/web:quote", family: 6},
	{name: "a node's sockets", from: "node/node-2", tcp: "shop/web:http", udp: "shop/web:quote", family: 4},
	{name: "a node's sockets, v6", from: "node/node-1", tcp: "shop/web:http", udp: "shop/web:quote", family: 6},
	{name: "a pod's packets", from: "shop/sender", tcp: "198.51.100.81:80", udp: "198.51.100.81:53"},
	{name: "a pod's packets, v6", from: "shop/sender", tcp: "[2001:db8:1::81]:80", udp: "[2001:db8:1::81]:53"},
	{name: "NodePort with the backend here", from: "outside", tcp: "node/node-1:30080", udp: "node/node-1:30053", family: 4},
	{name: "NodePort with the backend here, v6", from: "outside", tcp: "node/node-1:30080", udp: "node/node-1:30053", family: 6},
	{name: "NodePort with the backend elsewhere", from: "outside", tcp: "node/node-2:30080", udp: "node/node-2:30053", family: 4},
	{name: "NodePort with the backend elsewhere, v6", from: "outside", tcp: "node/node-2:30080", udp: "node/node-2:30053", family: 6},
	{name: "a balancer's address", from: "outside", via: "node/node-2", tcp: "198.51.100.80:80", udp: "198.51.100.80:53"},
	{name: "a ClusterIP from outside", from: "outside", tcp: "shop/web:http", udp: "shop/web:quote", family: 6},
}

// load is clients at work in a lab.
type load struct {
	names  []string
	stops  []func(context.Context) (*agent.Load, error)
	stream []bool
}

// The pauses between attempts of one client.
const (
	streamPause = 20 * time.Millisecond
	shortPause  = 40 * time.Millisecond
)

// start lets clients of both protocols go each route, again and again with new sockets and on and on with one.
func (l *load) start(t *testing.T, in *lab.Lab, routes []route, stream bool) {
	t.Helper()
	for _, r := range routes {
		for protocol, to := range map[string]string{"tcp": r.tcp, "udp": r.udp} {
			pause := shortPause
			if stream {
				pause = streamPause
			}
			stop, err := in.Load(lab.ProbeRequest{From: r.from, Via: r.via, To: to, Protocol: protocol, Family: r.family, Stream: stream, Timeout: patience}, pause)
			if err != nil {
				t.Fatal(err)
			}
			l.add(fmt.Sprintf("%s over %s, stream %t", r.name, protocol, stream), stream, stop)
		}
	}
}

func (l *load) add(name string, stream bool, stop func(context.Context) (*agent.Load, error)) {
	l.names, l.stream, l.stops = append(l.names, name), append(l.stream, stream), append(l.stops, stop)
}

// end stops all clients and returns how many attempts they made, how many of those failed or went to another backend
// than the one before on the same socket, and tells of each.
func (l *load) end(t *testing.T) (attempts, lost int, told []string) {
	t.Helper()
	for i, stop := range l.stops {
		did, err := stop(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", l.names[i], err)
		}
		attempts += did.Attempts
		lost += did.Failed + len(did.Switches)
		if did.Failed+len(did.Switches) > 0 || did.Attempts == 0 || l.stream[i] && did.Reached["shop/keep"] != did.Attempts {
			told = append(told, fmt.Sprintf("%s: %+v", l.names[i], *did))
		}
	}
	return attempts, lost, told
}

// Row 24: no connection fails and no established flow is lost while pods are replaced one by one, programmers die or
// come again with maps of other sizes, or all of it at once; clients count that, over sockets and packets, TCP and UDP.
// Row 3: connections go on while other backends of their Service terminate and go.
// Row 21: what is in use stays through sweeps, also after a restart.
// Row 23: maps get another size without a connection lost.
func TestLoadGoesOnWhileEverythingChanges(t *testing.T) {
	testkit.NeedKernel(t)
	c := buildAll(t)
	in, err := lab.Up(t.Context(), decoded(t, steady), lab.Options{
		Name: labName + "-load", Nodes: 2, Binaries: filepath.Dir(c.program), Agent: []string{c.program, "lab", "agent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	downAtTheEnd(t, in)
	check(t, in.Converged(t.Context()))
	var l load
	l.start(t, in, routes, true) // which reach shop/keep, as yet the only backend
	l.start(t, in, routes, false)
	begun := time.Now()
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"replace pods", func() { roll(t, in, 0) }},
		{"larger maps, short timeouts", func() {
			restart(t, in, 1<<21, "--max-backends=40000", "--max-affinities=100000", "--conntrack-tcp-established=4s", "--conntrack-udp-answered=4s")
		}},
		{"kill all and replace pods", func() { kill(t, in); roll(t, in, 3) }},
		{"smaller maps", func() { restart(t, in, 1<<16, "--max-backends=1000") }},
	} {
		change.do()
		t.Logf("%s after %s", change.name, time.Since(begun).Round(time.Millisecond))
	}
	attempts, lost, told := l.end(t)
	for _, text := range told {
		t.Error(text)
	}
	t.Logf("%d questions of %d clients, %d lost", attempts, len(l.stops), lost)
	theCountersTell(t, in)
}

// downAtTheEnd takes the lab down when the test ends, and tells what its services said and what nodes dropped if that failed.
func downAtTheEnd(t *testing.T, in *lab.Lab) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logsIn(in.Logs()))
			status, err := in.Status(context.WithoutCancel(t.Context()))
			for _, n := range status.GetNodes() {
				t.Logf("%s dropped %v", n.GetNode(), n.GetApplied().GetDrops())
			}
			t.Log("status:", err)
		}
		if err := in.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}

// roll replaces pods one by one: the next one serves and is published, the one before terminates, finishes and goes.
func roll(t *testing.T, in *lab.Lab, first int) {
	t.Helper()
	var old string
	for i := range 2 {
		next := fmt.Sprintf(another, first+i, 1+i%2)
		check(t, in.Apply(t.Context(), decoded(t, next)))
		if old != "" {
			check(t, in.Delete(t.Context(), decoded(t, old)))
		}
		old = next
	}
	check(t, in.Delete(t.Context(), decoded(t, old)))
}

// restart lets each programmer come again with maps of other sizes and waits until they say so.
func restart(t *testing.T, in *lab.Lab, flows uint64, flags ...string) {
	t.Helper()
	for _, node := range in.Nodes() {
		check(t, in.Restart(node, append(flags, fmt.Sprintf("--flows=%d", flows))...))
	}
	testkit.Eventually(t, patience, func() bool {
		status, err := in.Status(t.Context())
		return err == nil && len(status.GetNodes()) == 2 && !slices.ContainsFunc(status.GetNodes(), func(n *schemas.NodeStatus) bool {
			return !slices.ContainsFunc(n.GetApplied().GetMaps(), func(m *schemas.MapUse) bool {
				return m.GetName() == "flows" && m.GetCapacity() == flows
			})
		})
	})
	check(t, in.Converged(t.Context()))
}

// kill ends every service at once, without a word.
func kill(t *testing.T, in *lab.Lab) {
	t.Helper()
	services := in.State().Services
	if len(services) != 4 {
		t.Errorf("services %v, want watcher, compiler and two programmers", services)
	}
	for _, service := range services {
		check(t, service.Signal(syscall.SIGKILL))
	}
}

// theCountersTell fails unless clients notice when a node forgets its flows.
func theCountersTell(t *testing.T, in *lab.Lab) {
	t.Helper()
	here := slices.DeleteFunc(slices.Clone(routes), func(r route) bool { return !strings.HasPrefix(r.name, "a pod's packets") })
	var l load
	l.start(t, in, here, true)
	whileItRuns := func() {
		_, err := in.Probe(t.Context(), lab.ProbeRequest{From: "shop/sender", To: "198.51.100.81:80", Count: 10, Interval: streamPause})
		check(t, err)
	}
	whileItRuns()
	forgetFlows(t, in.Pins("node-2"))
	whileItRuns()
	if _, lost, _ := l.end(t); lost == 0 {
		t.Error("a node forgot its flows and nobody noticed: the test can't tell")
	}
}

func forgetFlows(t *testing.T, pins string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(pins, "maps*", "flows_*"))
	check(t, err)
	if len(found) != 1 {
		t.Fatalf("maps of flows: %v, want one", found)
	}
	flows, err := ebpf.LoadPinnedMap(found[0], nil)
	check(t, err)
	defer flows.Close()
	var key, value []byte
	var keys [][]byte
	for entries := flows.Iterate(); entries.Next(&key, &value); {
		keys = append(keys, slices.Clone(key))
	}
	for _, key := range keys {
		if err := flows.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			check(t, err)
		}
	}
}
