// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

const pods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, ports: [{name: http, containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop}
spec: {nodeName: node-2, hostNetwork: true, containers: [{name: main, ports: [{containerPort: 9000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stray, namespace: shop}
spec: {nodeName: node-3, containers: [{name: main, ports: [{containerPort: 9000}]}]}
status: {podIPs: [{ip: 192.0.2.77}, {ip: "2001:db8::77"}]}
`

// plainLab is a lab without services: what is tried is the network, the servers and the clients.
func plainLab(t *testing.T, name, yaml string) *Lab {
	t.Helper()
	testkit.NeedKernel(t)
	objects := manifest.Decode(name, []byte(yaml))
	if err := objects.Err(); err != nil {
		t.Fatal(err)
	}
	l, err := Up(t.Context(), objects, Options{Name: name, NoServices: true, Agent: []string{"/proc/self/exe", "agent"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, name)
	})
	return l
}

// unique is a lab's name that no other run of these tests on this machine has, now or before it was killed.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, os.Getpid()) }

func nothingLeft(t *testing.T, name string) {
	t.Helper()
	d, _ := dirOf(name)
	if mounts, err := space.Mounts(string(d)); err != nil || len(mounts) > 0 {
		t.Errorf("mounts are left: %v %v", mounts, err)
	}
	cgroup, err := cgroupOf(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{string(d), cgroup} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func probe(t *testing.T, l *Lab, r ProbeRequest) agent.Result {
	t.Helper()
	report, err := l.Probe(t.Context(), r)
	if err != nil {
		t.Fatalf("probe %+v: %v", r, err)
	}
	return report.Results[0]
}

// Everyone reaches every pod by its own address, in both families and protocols, and is seen as who they are.
func TestPodsReachEachOther(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-reach"), pods)
	for _, from := range []string{"shop/web-0", "node/node-1", "node/node-3", "outside"} {
		for _, to := range []string{"shop/web-0:http", "shop/web-1:http", "shop/host:9000", "shop/stray:9000"} {
			for _, family := range []int{4, 6} {
				got := probe(t, l, ProbeRequest{From: from, To: to, Family: family})
				if got.Outcome != agent.OK || !strings.HasPrefix(to, strings.SplitN(got.Reached, "web", 2)[0]) {
					t.Errorf("%s to %s over IPv%d: %+v", from, to, family, got)
				}
			}
		}
		if got := probe(t, l, ProbeRequest{From: from, To: "shop/web-2:53", Protocol: "udp", Family: 6, Unconnected: true}); got.Outcome != agent.OK {
			t.Errorf("%s by datagrams: %+v", from, got)
		}
	}
	client := manifest.PodAddrs(findPod(l.Cluster(), "shop/web-0"))[0].String()
	if got := probe(t, l, ProbeRequest{From: "shop/web-0", To: "shop/web-1:8080", SourcePort: 3333, HTTP: true}); got.ClientAddress != client || got.ClientPort != 3333 {
		t.Errorf("seen as %s:%d, want %s:3333", got.ClientAddress, got.ClientPort, client)
	}
	if got := probe(t, l, ProbeRequest{From: "outside", To: "shop/web-1:1"}); got.Outcome != agent.Refused {
		t.Errorf("a port that nobody serves: %+v", got)
	}
	if got := probe(t, l, ProbeRequest{From: "outside", To: "10.244.1.99:1", Timeout: 100 * time.Millisecond}); got.Outcome == agent.OK {
		t.Errorf("an address that nobody has: %+v", got)
	}
}

func TestPodsComeAndGo(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-change"), pods)
	more := manifest.Decode("f", []byte(strings.Replace(pods, "replicas: 3", "replicas: 5", 1)))
	if err := l.Apply(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if got := probe(t, l, ProbeRequest{From: "shop/web-4", To: "shop/web-3:http"}); got.Outcome != agent.OK {
		t.Errorf("new pods: %+v", got)
	}
	gone := findPod(l.Cluster(), "shop/web-4")
	if err := l.Apply(t.Context(), manifest.Decode("f", []byte(pods))); err != nil {
		t.Fatal(err)
	}
	if got := l.pod(manifest.Name(gone)); got != nil {
		t.Errorf("%s is still there", got.name)
	}
	if err := l.Delete(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if n := len(l.State().Places); n != 4 {
		t.Errorf("%d places are left, want three nodes and outside: %v", n, l.State().Places)
	}
	if err := l.Delete(t.Context(), more); err == nil || !strings.Contains(err.Error(), "Deployment shop/web isn't there") {
		t.Errorf("deleting twice gives %v", err)
	}
}

// Nodes come with their pods and go without a trace on the others.
func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-nodes"), pods)
	more := manifest.Decode("f", []byte("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: extra}\n---\n"+
		"apiVersion: v1\nkind: Pod\nmetadata: {name: there, namespace: shop}\nspec: {nodeName: extra, containers: [{name: main, ports: [{containerPort: 80}]}]}\n"))
	bound := manifest.Decode("f", []byte(pods)).Pods
	if err := l.Delete(t.Context(), &manifest.Objects{Pods: bound}); err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if got := probe(t, l, ProbeRequest{From: "node/node-1", To: "shop/there:80"}); got.Outcome != agent.OK {
		t.Errorf("a pod on a new node: %+v", got)
	}
	if got := l.Nodes(); len(got) != 2 {
		t.Errorf("nodes %v, want those that were applied", got)
	}
	more.Namespaces, more.Nodes = nil, more.Nodes[1:]
	if err := l.Delete(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if got := probe(t, l, ProbeRequest{From: "node/node-1", To: "shop/web-0:8080"}); got.Outcome != agent.OK {
		t.Errorf("after the node has gone: %+v", got)
	}
}

// A later process takes down what a crashed one has left, and a second lab of the same name is refused until then.
func TestDownAfterACrash(t *testing.T) {
	t.Parallel()
	name := unique("test-crash")
	l := plainLab(t, name, pods)
	if _, err := l.clients[Outside].client(); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), &manifest.Objects{}, Options{Name: name, NoServices: true}); err == nil || !strings.Contains(err.Error(), "lab "+name+" is up already") {
		t.Errorf("a second lab gives %v", err)
	}
	if found, err := Down(t.Context(), name); !found || err != nil {
		t.Errorf("down: found %t, %v", found, err)
	}
	nothingLeft(t, name)
	if found, err := Down(t.Context(), name); found || err != nil {
		t.Errorf("down again: found %t, %v", found, err)
	}
}

// What a run that was killed has left goes with the next one's start; what is up stays.
func TestDownOfLabsWhoseProcessesHaveEnded(t *testing.T) {
	t.Parallel()
	up := unique("test-ended")
	l := plainLab(t, up, pods)
	gone := up + "-gone"
	d, err := dirOf(gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.claim(); err != nil {
		t.Fatal(err)
	}
	process := l.State().Process
	process.Start++ // another process that had this number before
	if err := d.writeState(State{Name: gone, Process: process}); err != nil {
		t.Fatal(err)
	}
	if err := DownEnded(t.Context(), up); err != nil {
		t.Error(err)
	}
	nothingLeft(t, gone)
	if _, err := ReadState(up); err != nil {
		t.Errorf("a lab that is up was taken down: %v", err)
	}
}

func TestControlSocket(t *testing.T) {
	t.Parallel()
	l := plainLab(t, unique("test-control"), pods)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx) }()
	c, err := Connect(l.State().Name)
	if err != nil {
		t.Fatal(err)
	}
	report, err := c.Probe(t.Context(), ProbeRequest{From: "node/node-1", To: "shop/web:8080"})
	if err != nil || report.Results[0].Outcome != agent.OK {
		t.Errorf("probe: %+v %v", report, err)
	}
	if _, err := c.Probe(t.Context(), ProbeRequest{From: "node/node-9", To: "shop/web:8080"}); err == nil || !strings.Contains(err.Error(), "there are node-1, node-2, node-3") {
		t.Errorf("probe from nowhere: %v", err)
	}
	if err := c.Delete(t.Context(), []byte(pods), true); err != nil {
		t.Error(err)
	}
	if err := c.Apply(t.Context(), []byte(pods), true); err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: stray, namespace: shop}"), true); err != nil {
		t.Errorf("delete by name alone: %v", err)
	}
	if err := c.Apply(t.Context(), []byte("kind: Nonsense"), true); err == nil || !strings.Contains(err.Error(), "Nonsense") {
		t.Errorf("apply nonsense: %v", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
