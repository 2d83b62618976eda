// SPDX-License-Identifier: Apache-2.0

// Package convert makes Facts of Kubernetes objects: it keeps what decides about packets, in the bus' own words, and
// drops the rest. It is pure, and knows the Kubernetes API's types but no client.
//
// An object that breaks a rule gives an error that names the object and the field, so that the object can be set
// aside while all others work. The rules are Kubernetes' own validation where packets depend on it: sources other
// than an API server (files, old backups) check nothing before us. A policy is never set aside: its Fact says that it
// is refused, and why, so that the pods that it selects are closed and not open.
package convert

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// The kinds that Fact takes.
const (
	KindService       = "Service"
	KindEndpointSlice = "EndpointSlice"
	KindPod           = "Pod"
	KindNode          = "Node"
	KindNamespace     = "Namespace"
	KindNetworkPolicy = "NetworkPolicy"
	// KindClusterNetworkPolicy is of policy.networking.k8s.io, and may not be in the cluster.
	KindClusterNetworkPolicy = "ClusterNetworkPolicy"
)

// Kinds lists the kinds that Fact takes, in the order in which they make sense to a reader of facts.
var Kinds = []string{KindNamespace, KindNode, KindService, KindEndpointSlice, KindPod, KindNetworkPolicy, KindClusterNetworkPolicy}

// MaxObjectBytes bounds the objects that are looked at, in bytes of their protobuf form. An API server takes no
// larger request (k8s.io/apiserver server.Config.MaxRequestBodyBytes).
const MaxObjectBytes = 3 << 20

// Fact returns what obj, a pointer to a type of k8s.io/api, says about packets. Its trigger time is set only where
// the object carries one. A missing namespace is "default", as kubectl has it.
func Fact(obj runtime.Object) (*schemas.Fact, error) {
	ref, meta, err := reference(obj)
	if err != nil {
		return nil, err
	}
	fact := &schemas.Fact{Object: ref, Manager: manager(meta), TriggerTime: trigger(obj, meta)}
	if err := state(fact, obj); err != nil {
		return nil, fmt.Errorf("%s: %w", Name(ref), err)
	}
	return fact, nil
}

// Ref returns the name of obj alone, which also an object has that Fact refuses.
func Ref(obj runtime.Object) (*schemas.ObjectRef, error) {
	ref, _, err := reference(obj)
	return ref, err
}

// Name returns "Kind namespace/name", or "Kind name" for what has no namespace.
func Name(ref *schemas.ObjectRef) string {
	if ref.GetNamespace() == "" {
		return ref.GetKind() + " " + ref.GetName()
	}
	return ref.GetKind() + " " + ref.GetNamespace() + "/" + ref.GetName()
}

func state(fact *schemas.Fact, obj runtime.Object) error {
	switch o := obj.(type) {
	case *networkingv1.NetworkPolicy:
		fact.State = &schemas.Fact_NetworkPolicy{NetworkPolicy: networkPolicy(o)}
		fitPolicy(fact)
		return nil
	case *unstructured.Unstructured:
		fact.State = &schemas.Fact_ClusterNetworkPolicy{ClusterNetworkPolicy: clusterNetworkPolicy(o)}
		fitPolicy(fact)
		return nil
	}
	if sized, ok := obj.(interface{ Size() int }); ok {
		if size := sized.Size(); size > MaxObjectBytes {
			return fmt.Errorf("the object has %d bytes, more than the %d that Kubernetes allows; make it smaller", size, MaxObjectBytes)
		}
	}
	var err error
	switch o := obj.(type) {
	case *corev1.Service:
		s, e := service(o)
		fact.State, err = &schemas.Fact_Service{Service: s}, e
	case *discoveryv1.EndpointSlice:
		s, e := endpointSlice(o)
		fact.State, err = &schemas.Fact_EndpointSlice{EndpointSlice: s}, e
	case *corev1.Pod:
		s, e := pod(o)
		fact.State, err = &schemas.Fact_Pod{Pod: s}, e
	case *corev1.Node:
		s, e := node(o)
		fact.State, err = &schemas.Fact_Node{Node: s}, e
	case *corev1.Namespace:
		fact.State = &schemas.Fact_Namespace{Namespace: namespace(o)}
	}
	return err
}

// reference names obj and returns its metadata.
func reference(obj runtime.Object) (*schemas.ObjectRef, *metav1.ObjectMeta, error) {
	var kind string
	var meta *metav1.ObjectMeta
	namespaced := true
	switch o := obj.(type) {
	case *corev1.Service:
		kind, meta = KindService, &o.ObjectMeta
	case *discoveryv1.EndpointSlice:
		kind, meta = KindEndpointSlice, &o.ObjectMeta
	case *corev1.Pod:
		kind, meta = KindPod, &o.ObjectMeta
	case *networkingv1.NetworkPolicy:
		kind, meta = KindNetworkPolicy, &o.ObjectMeta
	case *corev1.Node:
		kind, meta, namespaced = KindNode, &o.ObjectMeta, false
	case *corev1.Namespace:
		kind, meta, namespaced = KindNamespace, &o.ObjectMeta, false
	case *unstructured.Unstructured:
		kind, meta, namespaced = KindClusterNetworkPolicy, metaOf(o), false
	}
	if kind == "" || meta == nil {
		return nil, nil, fmt.Errorf("%T is no kind that deltaplane watches; it watches %v", obj, Kinds)
	}
	if meta.Name == "" {
		return nil, nil, fmt.Errorf("%s: metadata.name is missing", kind)
	}
	ref := &schemas.ObjectRef{Kind: kind, Name: meta.Name, Uid: string(meta.UID), ResourceVersion: meta.ResourceVersion}
	if namespaced {
		ref.Namespace = cmp.Or(meta.Namespace, metav1.NamespaceDefault)
	}
	return ref, meta, nil
}

// metaOf returns what of a ClusterNetworkPolicy's metadata is used here; nil if the object is another.
func metaOf(u *unstructured.Unstructured) *metav1.ObjectMeta {
	if kind := u.GroupVersionKind(); kind.GroupVersion() != ClusterNetworkPolicies.GroupVersion() || kind.Kind != KindClusterNetworkPolicy {
		return nil
	}
	return &metav1.ObjectMeta{
		Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion(), ManagedFields: u.GetManagedFields(),
	}
}

// manager returns the field manager of the newest entry, the last one of those that are equally new.
func manager(meta *metav1.ObjectMeta) string {
	var name string
	var newest time.Time
	for _, entry := range meta.ManagedFields {
		if entry.Time != nil && !entry.Time.Time.Before(newest) {
			name, newest = entry.Manager, entry.Time.Time
		}
	}
	return name
}

// trigger returns when the change behind a slice came about, as the endpoints controller notes it. An annotation
// that is no time is as good as none: it decides about no packet.
func trigger(obj runtime.Object, meta *metav1.ObjectMeta) *timestamppb.Timestamp {
	if _, ok := obj.(*discoveryv1.EndpointSlice); !ok {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, meta.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return nil
	}
	return timestamppb.New(t)
}
