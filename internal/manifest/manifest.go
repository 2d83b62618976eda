// SPDX-License-Identifier: Apache-2.0

// Package manifest reads plain Kubernetes YAML and works out the cluster it describes: the pods that workloads
// ask for, where they run, which addresses pods and Services get, and the EndpointSlices that follow. It does what
// the API server, the scheduler and the controllers would do with the same files, in their simplest form.
//
// It promises that one bad document never spoils the others: it is set aside under its name with the reason. All but
// Load is pure, and Expand is deterministic: the same objects give the same cluster, and an object that was in the
// previous expansion keeps its node and addresses.
package manifest

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is any Kubernetes object with a name.
type Object interface {
	runtime.Object
	metav1.Object
}

// Objects are the objects of a cluster, in the order in which they were read.
type Objects struct {
	Namespaces      []*corev1.Namespace
	Nodes           []*corev1.Node
	Pods            []*corev1.Pod
	Deployments     []*appsv1.Deployment
	ReplicaSets     []*appsv1.ReplicaSet
	StatefulSets    []*appsv1.StatefulSet
	DaemonSets      []*appsv1.DaemonSet
	Services        []*corev1.Service
	EndpointSlices  []*discoveryv1.EndpointSlice
	NetworkPolicies []*networkingv1.NetworkPolicy
	ServiceCIDRs    []*networkingv1.ServiceCIDR
	// ClusterNetworkPolicies are of policy.networking.k8s.io/v1alpha2, as they were written.
	ClusterNetworkPolicies []*unstructured.Unstructured

	// SetAside are the documents that could not be used; all others are in the lists above.
	SetAside []*DocumentError
}

// DocumentError says which document was set aside and why.
type DocumentError struct {
	File     string // path, or what else the document came from; empty if the object was made
	Document int    // counted from 1 within the file; 0 if the file as a whole is meant
	Kind     string // empty if unknown
	Name     string // "namespace/name" or "name"; empty if unknown
	Err      error
	// Rest is what can be read of a NetworkPolicy whose fields are wrong: its selector selects all that it was meant to
	// select, and maybe more. Nil for all else.
	Rest *networkingv1.NetworkPolicy
}

// Error names the file, the document, the object and the field, as far as they are known.
func (e *DocumentError) Error() string {
	var text strings.Builder
	if e.File != "" {
		text.WriteString(e.File + ": ")
	}
	if e.Document > 0 {
		fmt.Fprintf(&text, "document %d: ", e.Document)
	}
	if e.Kind != "" {
		text.WriteString(strings.TrimSpace(e.Kind+" "+e.Name) + ": ")
	}
	return text.String() + e.Err.Error()
}

// Unwrap returns the reason alone.
func (e *DocumentError) Unwrap() error { return e.Err }

// Err joins all set-asides into one error; nil if there are none.
func (o *Objects) Err() error {
	errs := make([]error, len(o.SetAside))
	for i, e := range o.SetAside {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// All goes through all objects, kind by kind, in an order in which what is needed comes first.
func (o *Objects) All() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		_ = each(o.Namespaces, yield) && each(o.Nodes, yield) && each(o.ServiceCIDRs, yield) && each(o.Services, yield) &&
			each(o.Deployments, yield) &&
			each(o.ReplicaSets, yield) && each(o.StatefulSets, yield) && each(o.DaemonSets, yield) &&
			each(o.Pods, yield) && each(o.EndpointSlices, yield) && each(o.NetworkPolicies, yield) &&
			each(o.ClusterNetworkPolicies, yield)
	}
}

// Watched goes through the objects that the data plane is compiled from: all but workloads, and ServiceCIDRs, which
// say something of the cluster as a whole.
func (o *Objects) Watched() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		_ = each(o.Namespaces, yield) && each(o.Nodes, yield) && each(o.Services, yield) &&
			each(o.Pods, yield) && each(o.EndpointSlices, yield) && each(o.NetworkPolicies, yield) &&
			each(o.ClusterNetworkPolicies, yield)
	}
}

func each[T Object](list []T, yield func(Object) bool) bool {
	for _, object := range list {
		if !yield(object) {
			return false
		}
	}
	return true
}

// Add puts an object into the list of its kind, in place of one with the same name if there is one. It reports false
// for a kind that Objects has no list for.
func (o *Objects) Add(object runtime.Object) bool {
	switch x := object.(type) {
	case *corev1.Namespace:
		put(&o.Namespaces, x)
	case *corev1.Node:
		put(&o.Nodes, x)
	case *corev1.Pod:
		put(&o.Pods, x)
	case *appsv1.Deployment:
		put(&o.Deployments, x)
	case *appsv1.ReplicaSet:
		put(&o.ReplicaSets, x)
	case *appsv1.StatefulSet:
		put(&o.StatefulSets, x)
	case *appsv1.DaemonSet:
		put(&o.DaemonSets, x)
	case *corev1.Service:
		put(&o.Services, x)
	case *discoveryv1.EndpointSlice:
		put(&o.EndpointSlices, x)
	case *networkingv1.NetworkPolicy:
		put(&o.NetworkPolicies, x)
	case *networkingv1.ServiceCIDR:
		put(&o.ServiceCIDRs, x)
	case *unstructured.Unstructured:
		if x.GetKind() != kindClusterNetworkPolicy {
			return false
		}
		put(&o.ClusterNetworkPolicies, x)
	default:
		return false
	}
	return true
}

// Remove takes the object of the same kind and name out and reports whether there was one.
func (o *Objects) Remove(object runtime.Object) bool {
	switch x := object.(type) {
	case *corev1.Namespace:
		return remove(&o.Namespaces, x)
	case *corev1.Node:
		return remove(&o.Nodes, x)
	case *corev1.Pod:
		return remove(&o.Pods, x)
	case *appsv1.Deployment:
		return remove(&o.Deployments, x)
	case *appsv1.ReplicaSet:
		return remove(&o.ReplicaSets, x)
	case *appsv1.StatefulSet:
		return remove(&o.StatefulSets, x)
	case *appsv1.DaemonSet:
		return remove(&o.DaemonSets, x)
	case *corev1.Service:
		return remove(&o.Services, x)
	case *discoveryv1.EndpointSlice:
		return remove(&o.EndpointSlices, x)
	case *networkingv1.NetworkPolicy:
		return remove(&o.NetworkPolicies, x)
	case *networkingv1.ServiceCIDR:
		return remove(&o.ServiceCIDRs, x)
	case *unstructured.Unstructured:
		return x.GetKind() == kindClusterNetworkPolicy && remove(&o.ClusterNetworkPolicies, x)
	}
	return false
}

// Clone returns objects whose lists may be changed without changing o. The objects themselves are shared.
func (o *Objects) Clone() *Objects {
	c := *o
	c.Namespaces = slices.Clone(o.Namespaces)
	c.Nodes = slices.Clone(o.Nodes)
	c.Pods = slices.Clone(o.Pods)
	c.Deployments = slices.Clone(o.Deployments)
	c.ReplicaSets = slices.Clone(o.ReplicaSets)
	c.StatefulSets = slices.Clone(o.StatefulSets)
	c.DaemonSets = slices.Clone(o.DaemonSets)
	c.Services = slices.Clone(o.Services)
	c.EndpointSlices = slices.Clone(o.EndpointSlices)
	c.NetworkPolicies = slices.Clone(o.NetworkPolicies)
	c.ServiceCIDRs = slices.Clone(o.ServiceCIDRs)
	c.ClusterNetworkPolicies = slices.Clone(o.ClusterNetworkPolicies)
	c.SetAside = slices.Clone(o.SetAside)
	return &c
}

// Name returns "namespace/name", or "name" for what has no namespace.
func Name(object metav1.Object) string {
	if object.GetNamespace() == "" {
		return object.GetName()
	}
	return object.GetNamespace() + "/" + object.GetName()
}

func same(a, b metav1.Object) bool {
	return a.GetName() == b.GetName() && a.GetNamespace() == b.GetNamespace()
}

func put[T metav1.Object](list *[]T, object T) {
	if i := slices.IndexFunc(*list, func(o T) bool { return same(o, object) }); i >= 0 {
		(*list)[i] = object
		return
	}
	*list = append(*list, object)
}

func remove[T metav1.Object](list *[]T, object T) bool {
	before := len(*list)
	*list = slices.DeleteFunc(slices.Clone(*list), func(o T) bool { return same(o, object) })
	return len(*list) < before
}
