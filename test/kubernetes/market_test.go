// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// objectsOfMarket are nodes in two zones and pods without any Service: those are the tests'. The bakers' port "http" has
// another number than the dairy's.
const objectsOfMarket = `
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {topology.kubernetes.io/zone: z2}}
---
apiVersion: v1
kind: Namespace
metadata: {name: market}
---
apiVersion: v1
kind: Pod
metadata: {name: baker-1, namespace: market, labels: {app: baker, sells: food}}
spec: {nodeName: node-1, containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: baker-2, namespace: market, labels: {app: baker, sells: food}}
spec: {nodeName: node-2, containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: dairy, namespace: market, labels: {app: dairy, sells: food}}
spec: {nodeName: node-2, containers: [{name: main, ports: [{name: http, containerPort: 9090}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: buyer, namespace: market}
spec: {nodeName: node-1, containers: [{name: main, ports: [{containerPort: 1}]}]}
`

// Who connects.
const (
	buyer   = "market/buyer"
	outside = "outside"
	// outsider is the address of the client outside.
	outsider = "172.30.255.1"
)

// configOfMarket is told to the lab, and to those who work out what it must do.
const configOfMarket = "allowExternalIPs: [203.0.113.0/24]\n"

// Market is a lab without Services on a real API server, with Kubernetes' own endpointslice controller.
type Market struct {
	*Cluster
	bus     *Bus
	control *lab.Control
	config  explain.Config
	pods    map[string][]string // the addresses of those there were at the start, by "namespace/name"
}

// nameOfMarket is that of no other run of these tests on this machine.
var nameOfMarket = fmt.Sprintf("test-market-%d", os.Getpid())

// NewMarket starts all of it. before is done to the API server before anything watches it.
func NewMarket(t *testing.T, before ...func(*Cluster)) *Market {
	t.Helper()
	return newMarket(t, objectsOfMarket, before...)
}

func newMarket(t *testing.T, objects string, before ...func(*Cluster)) *Market {
	t.Helper()
	testkit.NeedKernel(t)
	m := &Market{
		Cluster: NewCluster(t, "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112"),
		bus:     NewBus(t), pods: map[string][]string{},
	}
	m.Install(t)
	for _, do := range before {
		do(m.Cluster)
	}
	m.SliceController(t)
	var err error
	m.config, err = explain.ParseConfig([]byte(configOfMarket))
	fatal(t, err)
	up := Run(t, "deltaplane", "lab", "up", "--name="+nameOfMarket, "--file="+file(t, "market.yaml", objects),
		"--config="+file(t, "config.yaml", configOfMarket), "--bus="+m.bus.URL, "--source=kubeconfig="+m.Kubeconfig(t, adminToken))
	testkit.Eventually(t, soon, func() bool {
		if up.Ended() {
			t.Fatal("the lab ended before it was up")
		}
		return strings.Contains(up.Log(), "every node is converged")
	})
	m.control, err = lab.Connect(nameOfMarket)
	fatal(t, err)
	pods, err := m.Client.CoreV1().Pods("market").List(t.Context(), metav1.ListOptions{})
	fatal(t, err)
	for _, pod := range pods.Items {
		for _, ip := range pod.Status.PodIPs {
			m.pods["market/"+pod.Name] = append(m.pods["market/"+pod.Name], ip.IP)
		}
	}
	return m
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	fatal(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Freeze stops one of the lab's services until the function that it returns is called: what changes meanwhile comes to
// it as one batch.
func (m *Market) Freeze(t *testing.T, service string) (thaw func()) {
	t.Helper()
	state, err := lab.ReadState(nameOfMarket)
	fatal(t, err)
	process, err := os.FindProcess(state.Services[service].PID)
	fatal(t, err)
	return testkit.Freeze(t, process)
}

// create makes a Service in the market and returns it as the API server completed it.
func (m *Market) create(t *testing.T, name, app string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "market", Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: named("http")}}},
	}
	if app != "" {
		service.Spec.Selector = map[string]string{"app": app}
	}
	if change != nil {
		change(&service.Spec)
	}
	service, err := m.Client.CoreV1().Services("market").Create(t.Context(), service, metav1.CreateOptions{})
	fatal(t, err)
	return service
}

// change changes a Service's specification.
func (m *Market) change(t *testing.T, name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	services := m.Client.CoreV1().Services("market")
	service, err := services.Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	change(&service.Spec)
	service, err = services.Update(t.Context(), service, metav1.UpdateOptions{})
	fatal(t, err)
	return service
}

// remove deletes Services, and then their slices as Kubernetes' garbage collector does.
func (m *Market) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		fatal(t, m.Client.CoreV1().Services("market").Delete(t.Context(), name, metav1.DeleteOptions{}))
		fatal(t, m.Client.DiscoveryV1().EndpointSlices("market").DeleteCollection(t.Context(), metav1.DeleteOptions{},
			metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name}))
	}
}

// balance says which addresses a load balancer has for a Service, as a cloud's controller does.
func (m *Market) balance(t *testing.T, name string, ingress ...corev1.LoadBalancerIngress) {
	t.Helper()
	services := m.Client.CoreV1().Services("market")
	service, err := services.Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	service.Status.LoadBalancer.Ingress = ingress
	_, err = services.UpdateStatus(t.Context(), service, metav1.UpdateOptions{})
	fatal(t, err)
}

// ready says what a pod's kubelet would say of its readiness.
func (m *Market) ready(t *testing.T, pod string, ready bool) {
	t.Helper()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q}]}}`, status)
	_, err := m.Client.CoreV1().Pods("market").Patch(t.Context(), pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	fatal(t, err)
}

func (m *Market) podOf(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	pod, err := m.Client.CoreV1().Pods("market").Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	return pod
}

// briefly is how long is waited for an answer that need not come: who expects one waits for long, or asks again.
const briefly = 700 * time.Millisecond

// dial connects once, over TCP.
func (m *Market) dial(t *testing.T, from, to string, timeout time.Duration) agent.Result {
	t.Helper()
	request := lab.ProbeRequest{From: from, To: to, Timeout: timeout}
	if from == outside {
		request.Via = "node/node-1"
	}
	report, err := m.control.Probe(t.Context(), request)
	if err != nil {
		t.Fatalf("from %s to %s: %v", from, to, err)
	}
	return report.Results[0]
}

// becomes waits until connections come to this outcome and, if pods are named, reach one of them.
func (m *Market) becomes(t *testing.T, from, to string, outcome agent.Outcome, pods ...string) {
	t.Helper()
	var got agent.Result
	defer func() {
		if t.Failed() {
			t.Logf("from %s to %s: %+v, want %s %v", from, to, got, outcome, pods)
		}
	}()
	testkit.Eventually(t, soon, func() bool {
		got = m.dial(t, from, to, briefly)
		return got.Outcome == outcome && (outcome != agent.OK || len(pods) == 0 || slices.Contains(pods, strings.TrimPrefix(got.Reached, "market/")))
	})
}

// reachesAll waits until connections reach all of these pods, one after the other, and no other in between.
func (m *Market) reachesAll(t *testing.T, from, to string, pods ...string) {
	t.Helper()
	seen := map[string]bool{}
	testkit.Eventually(t, soon, func() bool {
		got := m.dial(t, from, to, briefly)
		pod := strings.TrimPrefix(got.Reached, "market/")
		if got.Outcome != agent.OK || !slices.Contains(pods, pod) {
			clear(seen)
			return false
		}
		seen[pod] = true
		return len(seen) == len(pods)
	})
}

// agrees checks that each node's kernel holds what the facts compile to, and that new connections from everywhere to
// these addresses become what explain says of it.
func (m *Market) agrees(t *testing.T, addresses ...string) {
	t.Helper()
	var diff string
	for _, node := range []string{"node-1", "node-2"} {
		defer func() {
			if t.Failed() && diff != "" {
				t.Logf("%s (- compiled from the facts, + in the kernel):\n%s", node, diff)
			}
		}()
		testkit.Eventually(t, soon, func() bool {
			want, err := m.world(t).Rows(node)
			fatal(t, err)
			rows := want.Rows()
			diff = cmp.Diff(told(&rows), told(m.bus.Actual(t, node)))
			return diff == ""
		})
	}
	world := m.world(t)
	for _, from := range []string{buyer, "node/node-2", outside} {
		for _, to := range addresses {
			m.asExplained(t, world, from, to)
		}
	}
}

func (m *Market) world(t *testing.T) *explain.World {
	t.Helper()
	world, _, err := explain.FromFacts(slices.Collect(maps.Values(m.bus.Facts())), m.config)
	fatal(t, err)
	return world
}

// outcomes are how connections that get a verdict end.
var outcomes = map[string]agent.Outcome{"forward": agent.OK, "reject": agent.Refused, "drop": agent.Timeout}

func (m *Market) asExplained(t *testing.T, world *explain.World, from, to string) {
	t.Helper()
	question := explain.Question{From: from, To: to}
	if from == outside {
		question.From, question.Node = outsider, "node-1"
		if netip.MustParseAddrPort(to).Addr().Is6() {
			return // the outside client's address of that family is the lab's to choose
		}
	}
	answer, err := world.Ask(explain.Model{}, question)
	fatal(t, err)
	timeout := soon
	if outcomes[answer.Verdict] == agent.Timeout {
		timeout = briefly
	}
	got := m.dial(t, from, to, timeout)
	candidate := func(text string) bool {
		backend, err := netip.ParseAddrPort(text)
		return err == nil && slices.Contains(m.pods[got.Reached], backend.Addr().String())
	}
	if got.Outcome != outcomes[answer.Verdict] || got.Outcome == agent.OK && !slices.ContainsFunc(answer.Candidates, candidate) {
		t.Errorf("from %s to %s: %s %s, but explain says %s (%s) %v", from, to, got.Outcome, got.Reached,
			answer.Verdict, answer.Reason, answer.Candidates)
	}
}
