// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// objectsOfTown are nodes with programmers of their own; all else is the tests'.
const objectsOfTown = `
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {rack: front}}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {rack: back}}
---
apiVersion: v1
kind: Node
metadata: {name: node-3}
`

// programmed are the nodes of a town whose kernels there are. Other Nodes are objects alone.
var programmed = []string{"node-1", "node-2", "node-3"}

// Town is a cluster whose pods are objects of the API server alone: policies decide about their addresses all the same.
type Town struct{ *Market }

// NewTown starts an API server, and everything else of deltaplane on three nodes.
func NewTown(t *testing.T) *Town {
	t.Helper()
	return &Town{newMarket(t, objectsOfTown)}
}

// Snapshot is a town at rest: what is in the API server, what that compiles to, and what the nodes' kernels hold.
type Snapshot struct {
	facts []*schemas.Fact
	rows  map[string]*model.Tables // by node, read from its kernel
}

// settles waits until the bus has the API server's objects, and each kernel the rows that they compile to.
func (w *Town) settles(t *testing.T) *Snapshot {
	t.Helper()
	var diff string
	failed := t.Failed()
	defer func() {
		if t.Failed() && !failed {
			t.Logf("not settled (- as the API server has it, + as it is):\n%s", diff)
		}
	}()
	testkit.Eventually(t, soon, func() bool {
		diff = cmp.Diff(stated(w.listed(t)), stated(slices.Collect(maps.Values(w.bus.Facts()))))
		return diff == ""
	})
	s := &Snapshot{facts: append(w.listed(t), w.bus.Facts()["Cluster /cluster"]), rows: map[string]*model.Tables{}}
	world, _, err := explain.FromFacts(s.facts, w.config)
	fatal(t, err)
	for _, node := range programmed {
		want, err := world.Rows(node)
		fatal(t, err)
		compiled := want.Rows()
		testkit.Eventually(t, soon, func() bool {
			held, err := w.bus.actual(t.Context(), node)
			if err != nil {
				diff = fmt.Sprintf("node %s: %v", node, err)
				return false
			}
			s.rows[node] = model.NewTables()
			s.rows[node].Apply(&model.Change{Put: *held}, model.Digest{})
			diff = cmp.Diff(told(&compiled), told(held))
			return diff == ""
		})
	}
	w.unrepaired(t)
	return s
}

// unrepaired checks that all came by changes: the compiler looks after itself, and what it forgot is put right in a while.
func (w *Town) unrepaired(t *testing.T) {
	t.Helper()
	state, err := lab.ReadState(nameOfMarket)
	fatal(t, err)
	log, err := os.ReadFile(filepath.Join(state.Logs, "compiler.log"))
	fatal(t, err)
	if strings.Contains(string(log), "incremental and full compilation differ") {
		t.Errorf("the compiler had to put rows right:\n%.4000s", log)
	}
}

// listed are the facts of all objects in the API server that count.
func (w *Town) listed(t *testing.T) (facts []*schemas.Fact) {
	t.Helper()
	add := func(object runtime.Object) {
		if fact, err := convert.Fact(object); err == nil {
			facts = append(facts, fact)
		}
	}
	ctx, all := t.Context(), metav1.ListOptions{}
	core, everywhere := w.Client.CoreV1(), metav1.NamespaceAll
	namespaces, err := core.Namespaces().List(ctx, all)
	fatal(t, err)
	each(namespaces.Items, add)
	nodes, err := core.Nodes().List(ctx, all)
	fatal(t, err)
	each(nodes.Items, add)
	pods, err := core.Pods(everywhere).List(ctx, all)
	fatal(t, err)
	each(pods.Items, add)
	services, err := core.Services(everywhere).List(ctx, all)
	fatal(t, err)
	each(services.Items, add)
	slices, err := w.Client.DiscoveryV1().EndpointSlices(everywhere).List(ctx, all)
	fatal(t, err)
	each(slices.Items, add)
	policies, err := w.Client.NetworkingV1().NetworkPolicies(everywhere).List(ctx, all)
	fatal(t, err)
	each(policies.Items, add)
	ofCluster, err := w.Dynamic.Resource(clusterPolicy).List(ctx, all)
	if apierrors.IsNotFound(err) {
		return facts
	}
	fatal(t, err)
	each(ofCluster.Items, add)
	return facts
}

// each does something with each item of a list.
func each[O any, P interface {
	*O
	runtime.Object
}](items []O, do func(runtime.Object),
) {
	for i := range items {
		do(P(&items[i]))
	}
}

// stated is what facts say of objects, without when and by whom, and without what isn't in the API server.
func stated(facts []*schemas.Fact) map[string]string {
	all := map[string]string{}
	for _, fact := range facts {
		if fact.GetComplete() != nil || fact.GetCluster() != nil {
			continue
		}
		o := fact.GetObject()
		said := proto.CloneOf(fact)
		said.Object, said.Manager, said.TriggerTime, said.Number, said.Seal = &schemas.ObjectRef{Uid: o.GetUid()}, "", nil, 0, nil
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(said)
		if err != nil {
			text = []byte(err.Error())
		}
		all[key(o.GetKind(), o.GetNamespace(), o.GetName())] = string(text)
	}
	return all
}

func (w *Town) putPod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	return w.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
}

// address is what kubelet says once a pod has its network.
func (w *Town) address(ctx context.Context, pod *corev1.Pod, ips []corev1.PodIP) error {
	if pod.Spec.HostNetwork {
		node, err := w.node(ctx, pod.Spec.NodeName)
		if err != nil {
			return err
		}
		ips = nil
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				ips = append(ips, corev1.PodIP{IP: a.Address})
			}
		}
	}
	if len(ips) == 0 {
		return nil
	}
	pod.Status.PodIPs, pod.Status.PodIP, pod.Status.Phase = ips, ips[0].IP, corev1.PodRunning
	_, err := w.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

func (w *Town) node(ctx context.Context, name string) (*corev1.Node, error) {
	return w.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}
