// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Pipeline is a lab whose objects are in a real API server: real watcher, bus, compiler, programmers and packets.
type Pipeline struct {
	*Cluster
	name  string
	nodes []string
}

// NewPipeline starts a lab with the demo's shop on a cluster of its own.
func NewPipeline(t *testing.T) *Pipeline {
	t.Helper()
	testkit.NeedKernel(t)
	p := &Pipeline{Cluster: NewCluster(t, "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112"), name: fmt.Sprintf("test-kubernetes-%d", os.Getpid())}
	p.Install(t)
	up := Run(t, "deltaplane", "lab", "up", "--name="+p.name, "--file=../../internal/lab/shop/shop.yaml",
		"--source=kubeconfig="+p.Kubeconfig(t, adminToken))
	testkit.Eventually(t, soon, func() bool {
		if up.Ended() {
			t.Fatal("the lab ended before it was up")
		}
		return strings.Contains(up.Log(), "every node is converged")
	})
	nodes, err := p.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	fatal(t, err)
	for _, n := range nodes.Items {
		p.nodes = append(p.nodes, n.Name)
	}
	if len(p.nodes) != 3 {
		t.Fatalf("nodes %v, want three", p.nodes)
	}
	return p
}

// Probe dials a target from a place, once.
func (p *Pipeline) Probe(t *testing.T, from, to, protocol string, family int) agent.Result {
	t.Helper()
	command := exec.CommandContext(t.Context(), binary(t, "deltaplane"), "lab", "probe", "--name="+p.name, "--from="+from, "--to="+to,
		"--proto="+protocol, fmt.Sprint("--family=", family), "--output=json")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	var report lab.ProbeReport
	if err := json.Unmarshal(out, &report); err != nil || len(report.Results) != 1 {
		t.Fatalf("%s says %s: %v", command, out, err)
	}
	return report.Results[0]
}

// everywhere checks that a target is reached, or answers in another way, from each node and from a pod on each.
func (p *Pipeline) everywhere(t *testing.T, to, protocol, outcome string) {
	t.Helper()
	var places []string
	for i, node := range p.nodes {
		places = append(places, "node/"+node, fmt.Sprint("shop/shopper-", i))
	}
	for _, from := range places {
		for _, family := range []int{4, 6} {
			if got := p.Probe(t, from, to, protocol, family); string(got.Outcome) != outcome {
				t.Errorf("%s to %s by %s, IPv%d: %s, want %s", from, to, protocol, family, got.Outcome, outcome)
			}
		}
	}
}

func TestPacketsGoWhereTheAPIServerSays(t *testing.T) {
	p := NewPipeline(t)
	p.everywhere(t, "shop/web:80", "tcp", "ok")
	p.everywhere(t, "shop/prices:53", "udp", "ok")
	p.everywhere(t, "shop/cart:80", "tcp", "refused")

	// Someone else's objects count like the lab's.
	pods := p.podsOf(t, "web")
	service := p.Service(t, "shop", "by-hand")
	address := service.Spec.ClusterIP + ":80"
	p.sendTo(t, service, pods[0])
	p.reaches(t, address, pods[0].Name)

	p.Stop()
	if got := p.Probe(t, "node/"+p.nodes[0], address, "tcp", 4); got.Outcome != "ok" {
		t.Errorf("while the API server is away: %s, want ok", got.Outcome)
	}
	p.Start(t)
	p.sendTo(t, service, pods[1])
	p.reaches(t, address, pods[1].Name)

	p.sendTo(t, service)
	testkit.Eventually(t, soon, func() bool {
		return p.Probe(t, "node/"+p.nodes[0], address, "tcp", 4).Outcome == "refused"
	})
}

// reaches waits until every node sends to one pod.
func (p *Pipeline) reaches(t *testing.T, address, pod string) {
	t.Helper()
	for _, node := range p.nodes {
		testkit.Eventually(t, soon, func() bool {
			got := p.Probe(t, "node/"+node, address, "tcp", 4)
			return got.Outcome == "ok" && got.Reached == "shop/"+pod
		})
	}
}

func (p *Pipeline) podsOf(t *testing.T, workload string) []corev1.Pod {
	t.Helper()
	pods, err := p.Client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + workload})
	fatal(t, err)
	if len(pods.Items) < 2 {
		t.Fatalf("%d pods of %s, want some", len(pods.Items), workload)
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods.Items
}

// sendTo makes or replaces the one EndpointSlice of a Service.
func (p *Pipeline) sendTo(t *testing.T, service *corev1.Service, pods ...corev1.Pod) {
	t.Helper()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace, Name: service.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for _, pod := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{pod.Status.PodIP}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}, NodeName: new(pod.Spec.NodeName),
		})
	}
	p.PutSlice(t, slice)
}
