// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Options say what Expand may make up.
type Options struct {
	// Nodes is how many Nodes to make if there are none; 0 makes three.
	Nodes int
	// Previous is the cluster as it was: what is still there keeps its node, addresses and slices. Nil for a new one.
	Previous *Objects
	// Families of what has no other: {4}, {6} or, if empty, {4, 6}.
	Families []int
	// Ranges that Service addresses come from, the first of each family; without them those of ServiceCIDR objects, or
	// DefaultServiceCIDRs.
	ServiceCIDRs []netip.Prefix
}

// DefaultServiceCIDRs are the ranges that Service addresses come from if nothing says which.
var DefaultServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}

// Expand gives what workloads, Services and Nodes ask for: Nodes with addresses and pod CIDRs, Pods with nodes and
// addresses, Services with ClusterIPs and EndpointSlices. Workloads stay in it. Objects that can't be expanded are
// set aside; the error is for what makes a cluster impossible.
func Expand(objects *Objects, options Options) (*Objects, error) {
	e := newExpansion(objects, options)
	if err := e.nodes(); err != nil {
		return nil, err
	}
	e.pods()
	e.services()
	e.slices()
	e.namespaces()
	e.identify()
	return e.out, nil
}

// expansion is one run of Expand.
type expansion struct {
	out      *Objects
	previous *Objects
	count    int
	families []int
	ranges   []netip.Prefix
}

func newExpansion(objects *Objects, options Options) *expansion {
	e := &expansion{out: objects.Clone(), previous: options.Previous, count: options.Nodes, families: options.Families, ranges: options.ServiceCIDRs}
	if e.previous == nil {
		e.previous = &Objects{}
	}
	if e.count == 0 {
		e.count = 3
	}
	if len(e.families) == 0 {
		e.families = []int{4, 6}
	}
	if len(e.ranges) == 0 {
		e.ranges = slices.Concat(ServicePrefixes(e.out.ServiceCIDRs), DefaultServiceCIDRs)
	}
	return e
}

// setAside takes an object that can't be expanded out of the cluster and says why.
func (e *expansion) setAside(object Object, err error) {
	e.out.Remove(object)
	e.out.SetAside = append(e.out.SetAside, &DocumentError{
		Kind: object.GetObjectKind().GroupVersionKind().Kind, Name: Name(object), Err: err,
	})
}

// namespaces adds those that are used and not there.
func (e *expansion) namespaces() {
	needed := map[string]bool{metav1.NamespaceDefault: true}
	for object := range e.out.All() {
		if ns := object.GetNamespace(); ns != "" {
			needed[ns] = true
		}
	}
	for _, ns := range e.out.Namespaces {
		delete(needed, ns.Name)
	}
	for _, name := range sorted(needed) {
		e.out.Namespaces = append(e.out.Namespaces, &corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name},
		})
	}
	for i, ns := range e.out.Namespaces {
		if ns.Labels[corev1.LabelMetadataName] != ns.Name {
			ns = ns.DeepCopy()
			metav1.SetMetaDataLabel(&ns.ObjectMeta, corev1.LabelMetadataName, ns.Name)
			e.out.Namespaces[i] = ns
		}
	}
}

// identify gives a uid to each object that has none.
func (e *expansion) identify() {
	identifyAll(e.out.Namespaces)
	identifyAll(e.out.Nodes)
	identifyAll(e.out.Pods)
	identifyAll(e.out.Deployments)
	identifyAll(e.out.ReplicaSets)
	identifyAll(e.out.StatefulSets)
	identifyAll(e.out.DaemonSets)
	identifyAll(e.out.Services)
	identifyAll(e.out.EndpointSlices)
	identifyAll(e.out.NetworkPolicies)
	identifyAll(e.out.ServiceCIDRs)
	identifyAll(e.out.ClusterNetworkPolicies)
}

func identifyAll[T Object](list []T) {
	for i, object := range list {
		if object.GetUID() == "" {
			object = object.DeepCopyObject().(T)
			object.SetUID(uidOf(object))
			list[i] = object
		}
	}
}

// ServicePrefixes returns the prefixes that ServiceCIDR objects name, in their order.
func ServicePrefixes(list []*networkingv1.ServiceCIDR) (prefixes []netip.Prefix) {
	for _, object := range list {
		for _, text := range object.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				prefixes = append(prefixes, p.Masked())
			}
		}
	}
	return prefixes
}

// uidOf returns the object's uid, or one made of its kind and name (RFC 9562, version 8).
func uidOf(object Object) types.UID {
	if uid := object.GetUID(); uid != "" {
		return uid
	}
	sum := sha256.Sum256([]byte(object.GetObjectKind().GroupVersionKind().Kind + " " + Name(object)))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]))
}

func sorted(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func indexOf[T metav1.Object](list []T) map[string]T {
	index := make(map[string]T, len(list))
	for _, object := range list {
		index[Name(object)] = object
	}
	return index
}

func find[T metav1.Object](list []T, namespace, name string) (found T, ok bool) {
	for _, object := range list {
		if object.GetName() == name && object.GetNamespace() == namespace {
			return object, true
		}
	}
	return found, false
}
