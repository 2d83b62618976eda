// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

var (
	definitions   = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	clusterPolicy = schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}
)

// definition is as much of network-policy-api's CustomResourceDefinition as an API server needs to serve the resource.
const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusternetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: policy.networking.k8s.io
  names: {kind: ClusterNetworkPolicy, listKind: ClusterNetworkPolicyList, plural: clusternetworkpolicies, singular: clusternetworkpolicy}
  scope: Cluster
  versions:
  - name: v1alpha2
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

func objectOf(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	fatal(t, yaml.Unmarshal([]byte(text), &object.Object))
	return object
}

// define gives the API server ClusterNetworkPolicies, and returns once it takes them.
func define(t *testing.T, cluster *Cluster, name string) {
	t.Helper()
	_, err := cluster.Dynamic.Resource(definitions).Create(t.Context(), objectOf(t, definition), metav1.CreateOptions{})
	fatal(t, err)
	policy := objectOf(t, `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: `+name+`},
	  spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]}}`)
	testkit.Eventually(t, soon, func() bool {
		_, err := cluster.Dynamic.Resource(clusterPolicy).Create(t.Context(), policy, metav1.CreateOptions{})
		return err == nil
	})
}

// undefine takes ClusterNetworkPolicies out of the API server, and returns once they are gone.
func undefine(t *testing.T, cluster *Cluster) {
	t.Helper()
	const name = "clusternetworkpolicies.policy.networking.k8s.io"
	resource := cluster.Dynamic.Resource(definitions)
	fatal(t, resource.Delete(t.Context(), name, metav1.DeleteOptions{}))
	testkit.Eventually(t, soon, func() bool {
		_, err := resource.Get(t.Context(), name, metav1.GetOptions{})
		return err != nil
	})
}

// Policy row 5: ClusterNetworkPolicies are picked up when the cluster gets to know them, and are gone with their
// CustomResourceDefinition. All else is known before, and STATE is complete without them.
func TestClusterNetworkPoliciesComeAndGoWithTheirDefinition(t *testing.T) {
	cluster, bus := shop(t)
	watch(t, cluster, bus, "a")
	eventually(t, bus, "all objects and a complete list", settled)

	define(t, cluster, "no-lab")
	eventually(t, bus, "the policy", has("ClusterNetworkPolicy /no-lab"))
	policy := bus.Facts()["ClusterNetworkPolicy /no-lab"].GetClusterNetworkPolicy()
	if policy.GetTier() != schemas.PolicyTier_POLICY_TIER_ADMIN || policy.GetRefused() != "" || len(policy.GetEgress()) != 1 {
		t.Errorf("the policy is %v", policy)
	}

	cluster.Stop()
	cluster.Start(t)
	cluster.Service(t, "shop", "after")
	eventually(t, bus, "a Service made after a restart, and the policy", has("Service shop/after", "ClusterNetworkPolicy /no-lab"))

	undefine(t, cluster)
	eventually(t, bus, "no policy", lacks("ClusterNetworkPolicy /no-lab"))
	define(t, cluster, "again")
	eventually(t, bus, "the policy of the new definition", has("ClusterNetworkPolicy /again"))
}

// Policy row 1: a NetworkPolicy is told in full, with its defaults.
func TestNetworkPoliciesAreToldInFull(t *testing.T) {
	cluster, bus := shop(t)
	watch(t, cluster, bus, "a")
	policy := objectOf(t, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: cart, namespace: shop},
	  spec: {podSelector: {matchLabels: {app: cart}}, ingress: [{ports: [{port: http}]}], egress: [{}]}}`)
	policies := schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}
	_, err := cluster.Dynamic.Resource(policies).Namespace("shop").Create(t.Context(), policy, metav1.CreateOptions{})
	fatal(t, err)
	eventually(t, bus, "the policy", has("NetworkPolicy shop/cart", "Namespace /shop"))
	got := bus.Facts()["NetworkPolicy shop/cart"].GetNetworkPolicy()
	ports := got.GetIngress()[0].GetPorts()
	if !got.GetIsolatesIngress() || !got.GetIsolatesEgress() || len(ports) != 1 || ports[0].GetName() != "http" ||
		ports[0].GetProtocol() != schemas.Protocol_PROTOCOL_TCP || !got.GetEgress()[0].GetAnyPeer() {
		t.Errorf("the policy is %v", got)
	}
	labels := bus.Facts()["Namespace /shop"].GetNamespace().GetLabels()
	if labels["kubernetes.io/metadata.name"] != "shop" {
		t.Errorf("the Namespace's labels are %v", labels)
	}
}
