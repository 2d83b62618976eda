// SPDX-License-Identifier: Apache-2.0

// Package policy is the oracle of policies: it says from the objects alone, one rule after another, whether policies
// let a connection begin, which rule of which policy decided, and which came nearest to letting it. Each rule cites
// where it comes from.
//
// It promises to be pure, slow and obvious: no identities, no rule sets, no tables, nothing of what the compiler makes
// of policies. What the compiler and the kernel decide must agree with it. When the two disagree find out which is
// wrong by the cited source, never by making this follow the compiler.
//
// The sources, as they are cited:
//   - NP: NetworkPolicy, networking.k8s.io/v1, the comments of its types; and Kubernetes' page "Network Policies".
//   - CNP: ClusterNetworkPolicy, policy.networking.k8s.io/v1alpha2 (network-policy-api v0.2.0), the comments of its types.
//   - LabelSelector: meta/v1, the comments of its type, and LabelSelectorAsSelector.
package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Cluster is what policies are about. It never changes once made.
type Cluster struct {
	holders    map[netip.Addr]*pod
	nodes      map[string]*node
	namespaces map[string]labels
	policies   []*policy // in the order in which they are asked
}

// pod is one that policies can select and name: it has an address of its own.
type pod struct {
	namespace, name string
	node            string
	labels          labels
	ports           []*schemas.EndpointPort
}

func (p *pod) String() string { return p.namespace + "/" + p.name }

type node struct {
	name      string
	labels    labels
	addresses []netip.Addr
}

// policy is a NetworkPolicy or a ClusterNetworkPolicy.
type policy struct {
	model.PolicyName
	priority   uint32
	namespaces *schemas.Selector // of its subjects; nil is its own, or all if it has none
	pods       *schemas.Selector // of its subjects; nil is all
	concerns   map[model.Direction]bool
	rules      map[model.Direction][]*schemas.PolicyRule
	refused    string // why nobody knows what it allows; empty if that is known
}

// New returns the cluster that facts tell of. refused are policies that can't be in force, besides those that can't be
// understood: what a compiler has no room for.
func New(facts []*schemas.Fact, refused map[model.PolicyName]string) *Cluster {
	c := &Cluster{holders: map[netip.Addr]*pod{}, nodes: map[string]*node{}, namespaces: map[string]labels{}}
	for _, fact := range facts {
		c.add(fact)
	}
	for _, p := range c.policies {
		if why := refused[p.PolicyName]; p.refused == "" {
			p.refused = why
		}
	}
	slices.SortFunc(c.policies, asked)
	return c
}

func (c *Cluster) add(fact *schemas.Fact) {
	ref := fact.GetObject()
	switch state := fact.GetState().(type) {
	case *schemas.Fact_Pod:
		c.addPod(&pod{ref.GetNamespace(), ref.GetName(), state.Pod.GetNode(), state.Pod.GetLabels(), named(state.Pod.GetPorts())}, state.Pod)
	case *schemas.Fact_Node:
		c.nodes[ref.GetName()] = &node{ref.GetName(), state.Node.GetLabels(), addresses(state.Node.GetAddresses())}
	case *schemas.Fact_Namespace:
		c.namespaces[ref.GetName()] = state.Namespace.GetLabels()
	case *schemas.Fact_NetworkPolicy:
		c.policies = append(c.policies, networkPolicy(ref, state.NetworkPolicy))
	case *schemas.Fact_ClusterNetworkPolicy:
		c.policies = append(c.policies, clusterPolicy(ref, state.ClusterNetworkPolicy))
	}
}

// addPod takes in a pod. (NP page: "hostNetwork pods … the most common implementation is to ignore them when matching
// podSelector and namespaceSelector; treated the same as all other traffic to/from the node IP"; CNP: "host-networked
// pods are not included in this type of peer". A finished pod's address is no longer its own.) Of two that claim one
// address the first by name has it, as of everything that only time could decide.
func (c *Cluster) addPod(p *pod, state *schemas.Pod) {
	if state.GetHostNetwork() || state.GetFinished() {
		return
	}
	for _, a := range addresses(state.GetAddresses()) {
		if other := c.holders[a]; other == nil || p.String() < other.String() {
			c.holders[a] = p
		}
	}
}

// named returns the ports that have a name. Of two containers' ports of one name and protocol the first is meant. (NP says
// nothing of that; an API server warns that who selects ports by name "will use" the first, as FindPort of
// k8s.io/kubernetes pkg/api/v1/pod does.)
func named(ports []*schemas.EndpointPort) (first []*schemas.EndpointPort) {
	for _, port := range ports {
		same := func(p *schemas.EndpointPort) bool {
			return p.GetName() == port.GetName() && p.GetProtocol() == port.GetProtocol()
		}
		if port.GetName() != "" && !slices.ContainsFunc(first, same) {
			first = append(first, port)
		}
	}
	return first
}

func networkPolicy(ref *schemas.ObjectRef, state *schemas.NetworkPolicy) *policy {
	p := &policy{
		PolicyName: model.PolicyName{Kind: model.NetworkPolicy, Namespace: ref.GetNamespace(), Name: ref.GetName()},
		pods:       state.GetPods(),
		// NP: "policyTypes … if not specified, it will default based on the existence of ingress or egress rules":
		// whoever observes the policy has resolved that.
		concerns: map[model.Direction]bool{model.Ingress: state.GetIsolatesIngress(), model.Egress: state.GetIsolatesEgress()},
		rules:    map[model.Direction][]*schemas.PolicyRule{model.Ingress: state.GetIngress(), model.Egress: state.GetEgress()},
		refused:  state.GetRefused(),
	}
	if state.GetPods() == nil {
		p.close("it doesn't say which pods it selects")
	}
	p.check()
	return p
}

func clusterPolicy(ref *schemas.ObjectRef, state *schemas.ClusterNetworkPolicy) *policy {
	kinds := map[schemas.PolicyTier]model.PolicyKind{
		schemas.PolicyTier_POLICY_TIER_ADMIN: model.AdminPolicy, schemas.PolicyTier_POLICY_TIER_BASELINE: model.BaselinePolicy,
	}
	p := &policy{
		PolicyName: model.PolicyName{Kind: kinds[state.GetTier()], Name: ref.GetName()},
		priority:   state.GetPriority(),
		namespaces: state.GetSubject().GetNamespaces(), pods: state.GetSubject().GetPods(),
		// CNP: "CNPs with no ingress rules do not affect ingress traffic"; the same of egress.
		concerns: map[model.Direction]bool{model.Ingress: len(state.GetIngress()) > 0, model.Egress: len(state.GetEgress()) > 0},
		rules:    map[model.Direction][]*schemas.PolicyRule{model.Ingress: state.GetIngress(), model.Egress: state.GetEgress()},
		refused:  state.GetRefused(),
	}
	if state.GetSubject() == nil {
		p.close("it doesn't say which pods it selects")
	}
	p.check()
	return p
}

// asked orders policies as they are asked. (CNP: "Policy tiers are evaluated in the following order: Admin tier,
// NetworkPolicy tier, Baseline tier"; "policies with lower priority values have higher precedence". Of the same priority
// an "implementation can apply any": the first by name. NetworkPolicies are a union, and their order means nothing but
// which of them is named.)
func asked(a, b *policy) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.priority, b.priority),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// selects says whether a pod is among a policy's subjects. (NP: "podSelector selects the pods to which this
// NetworkPolicy object applies … in the policy's namespace". CNP: subject selects "via namespace AND pod selectors".)
func (c *Cluster) selects(p *policy, subject *pod) bool {
	return c.inNamespaces(p.namespaces, p.Namespace, subject) && matches(p.pods, subject.labels)
}

// inNamespaces says whether a pod is in one of the selected namespaces. Without a selector that is the policy's own, or
// any if the policy is in none.
func (c *Cluster) inNamespaces(selector *schemas.Selector, own string, p *pod) bool {
	switch {
	case selector != nil:
		return matches(selector, c.namespaceLabels(p.namespace))
	case own != "":
		return p.namespace == own
	}
	return true
}

// namespaceLabels are what selectors see: the API server gives each namespace its name as a label (KEP-2161), so a
// namespace has it before it is known.
func (c *Cluster) namespaceLabels(namespace string) labels {
	all := labels{}
	maps.Copy(all, c.namespaces[namespace])
	all[nameLabel] = namespace
	return all
}

// addresses reads addresses of 4 or 16 bytes and leaves out what is neither.
func addresses(raw [][]byte) []netip.Addr {
	var all []netip.Addr
	for _, b := range raw {
		if a, ok := netip.AddrFromSlice(b); ok {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// Name returns the name of the policy that a fact is about, the zero one if it is about none.
func Name(fact *schemas.Fact) model.PolicyName {
	switch state := fact.GetState().(type) {
	case *schemas.Fact_NetworkPolicy:
		return networkPolicy(fact.GetObject(), state.NetworkPolicy).PolicyName
	case *schemas.Fact_ClusterNetworkPolicy:
		return clusterPolicy(fact.GetObject(), state.ClusterNetworkPolicy).PolicyName
	}
	return model.PolicyName{}
}
