// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/lab"
)

var (
	churnSeed = flag.Uint64("churn.seed", 0, "seed of the random changes; 0 takes the time")
	churnTime = flag.Duration("churn.time", 8*time.Second, "how long objects change at random before each look")
)

// Churn changes a town at random, through its API server.
type Churn struct {
	*Town
	Drawing
	t       *testing.T
	made    map[string]int // what was done, how often
	refused map[string]int // what the API server wouldn't do
	defined bool           // the API server has ClusterNetworkPolicies
	count   int
}

func newChurn(t *testing.T, town *Town) *Churn {
	t.Helper()
	seed := *churnSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-churn.seed=%d", seed)
	return &Churn{Town: town, t: t, Drawing: Drawing{rand.New(rand.NewPCG(seed, 0))}, made: map[string]int{}, refused: map[string]int{}}
}

// a change is drawn as often as its weight says.
type change struct {
	weight int
	name   string
	do     func(context.Context) error
}

func (c *Churn) changes() []change {
	return []change{
		{40, "a pod comes", c.podComes},
		{10, "a pod goes", c.podGoes},
		{8, "a pod moves", c.podMoves},
		{10, "a pod's labels change", c.podChanges},
		{3, "a pod finishes", c.podFinishes},
		{3, "a pod gets its address", c.podStarts},
		{3, "a pod's end begins", c.podEnds},
		{6, "a namespace's labels change", c.namespaceChanges},
		{1, "a namespace goes", c.namespaceGoes},
		{20, "a NetworkPolicy comes or changes", c.policyChanges},
		{9, "a NetworkPolicy goes", c.policyGoes},
		{14, "a ClusterNetworkPolicy comes or changes", c.clusterPolicyChanges},
		{6, "a ClusterNetworkPolicy goes", c.clusterPolicyGoes},
		{4, "a node's labels change", c.nodeChanges},
		{3, "a node comes or goes", c.nodeComesOrGoes},
	}
}

// churn changes things until the time is over.
func (c *Churn) churn(until time.Time) {
	c.t.Helper()
	for time.Now().Before(until) {
		c.some(1)
	}
}

// some makes so many changes.
func (c *Churn) some(n int) {
	c.t.Helper()
	var choices []change
	for _, one := range c.changes() {
		choices = append(choices, slices.Repeat([]change{one}, one.weight)...)
	}
	for range n {
		change := oneOf(c.Drawing, choices...)
		c.count++
		switch err := change.do(c.t.Context()); {
		case err == nil:
			c.made[change.name]++
		case apierrors.IsInvalid(err), apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsForbidden(err):
			c.refused[change.name]++
			if c.refused[change.name] == 1 {
				c.t.Logf("%s: %v", change.name, err)
			}
		default:
			c.t.Fatalf("%s: %v", change.name, err)
		}
	}
}

// inOneGo makes so many changes while one of the lab's services sleeps, so that they reach it together.
func (c *Churn) inOneGo(n int) {
	state, err := lab.ReadState(nameOfMarket)
	fatal(c.t, err)
	var names []string
	for name := range state.Services {
		names = append(names, name)
	}
	slices.Sort(names)
	thaw := c.Freeze(c.t, oneOf(c.Drawing, names...))
	c.some(n)
	thaw()
}

// paperNodes have no programmer: others see them as peers.
var paperNodes = []string{"paper-1", "paper-2"}

func (c *Churn) nodeChanges(ctx context.Context) error {
	node, err := c.node(ctx, oneOf(c.Drawing, append(slices.Clone(programmed), paperNodes...)...))
	if err != nil {
		return err
	}
	node.Labels = c.labels()
	_, err = c.Client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	return err
}

func (c *Churn) nodeComesOrGoes(ctx context.Context) error {
	nodes, name := c.Client.CoreV1().Nodes(), oneOf(c.Drawing, paperNodes...)
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: c.labels()}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nodes.Delete(ctx, name, metav1.DeleteOptions{})
	}
	if err != nil {
		return err
	}
	last := 1 + c.IntN(4)
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: fmt.Sprint("172.31.0.", last)},
		{Type: corev1.NodeInternalIP, Address: fmt.Sprint("fd00:31::", last)},
	}
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

func (c *Churn) namespaceChanges(ctx context.Context) error {
	namespaces := c.Client.CoreV1().Namespaces()
	namespace, err := namespaces.Get(ctx, oneOf(c.Drawing, districts...), metav1.GetOptions{})
	if err != nil {
		return err
	}
	namespace.Labels = c.labels()
	_, err = namespaces.Update(ctx, namespace, metav1.UpdateOptions{})
	return err
}

// namespaceGoes deletes one as Kubernetes' controller does, first what is in it, and makes it again.
func (c *Churn) namespaceGoes(ctx context.Context) error {
	namespaces, name := c.Client.CoreV1().Namespaces(), oneOf(c.Drawing, districts...)
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := c.Client.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{}); err != nil {
		return err
	}
	if err := c.Client.NetworkingV1().NetworkPolicies(name).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	namespace, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	namespace.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(ctx, namespace, metav1.UpdateOptions{}); err != nil {
		return err
	}
	_, err = namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: c.labels()}}, metav1.CreateOptions{})
	return err
}

const mostPolicies = 7

func (c *Churn) policyChanges(ctx context.Context) error {
	policy := c.policy(fmt.Sprint("policy-", c.IntN(mostPolicies)))
	policies := c.Client.NetworkingV1().NetworkPolicies(policy.Namespace)
	_, err := policies.Update(ctx, policy, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = policies.Create(ctx, policy, metav1.CreateOptions{})
	}
	return err
}

func (c *Churn) policyGoes(ctx context.Context) error {
	all, err := c.Client.NetworkingV1().NetworkPolicies(oneOf(c.Drawing, districts...)).List(ctx, metav1.ListOptions{})
	if err != nil || len(all.Items) == 0 {
		return err
	}
	policy := oneOf(c.Drawing, all.Items...)
	return c.Client.NetworkingV1().NetworkPolicies(policy.Namespace).Delete(ctx, policy.Name, metav1.DeleteOptions{})
}

func (c *Churn) clusterPolicyChanges(ctx context.Context) error {
	policies, policy := c.Dynamic.Resource(clusterPolicy), c.clusterPolicy(fmt.Sprint("policy-", c.IntN(mostPolicies)))
	if !c.defined {
		return nil
	}
	held, err := policies.Get(ctx, policy.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = policies.Create(ctx, policy, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	policy.SetResourceVersion(held.GetResourceVersion())
	_, err = policies.Update(ctx, policy, metav1.UpdateOptions{})
	return err
}

func (c *Churn) clusterPolicyGoes(ctx context.Context) error {
	if !c.defined {
		return nil
	}
	return c.Dynamic.Resource(clusterPolicy).Delete(ctx, fmt.Sprint("policy-", c.IntN(mostPolicies)), metav1.DeleteOptions{})
}
