// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const policies = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  ingress: [{ports: [{port: http}, {port: 80, endPort: 90, protocol: SCTP}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-lab}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{newInThisVersion: {}}]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
`

// Policy row 1: what policies select by is there as in a cluster: names of Namespaces, Nodes and pods of StatefulSets,
// and named ports.
func TestPoliciesAndWhatTheySelectAreThere(t *testing.T) {
	t.Parallel()
	expanded, err := Expand(Decode("f.yaml", []byte(policies)), Options{Nodes: 1})
	if err != nil || expanded.Err() != nil {
		t.Fatal(err, expanded.Err())
	}
	var kinds []string
	for object := range expanded.Watched() {
		kinds = append(kinds, object.GetObjectKind().GroupVersionKind().Kind+" "+Name(object))
	}
	want := []string{
		"Namespace shop", "Namespace default", "Node node-1", "Pod shop/db-0", "Pod shop/db-1", "NetworkPolicy shop/cart", "ClusterNetworkPolicy no-lab",
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	labels := func(got map[string]string, want string) {
		t.Helper()
		key, value, _ := strings.Cut(want, "=")
		if got[key] != value {
			t.Errorf("%s is missing among %v", want, got)
		}
	}
	labels(expanded.Namespaces[0].Labels, "kubernetes.io/metadata.name=shop")
	labels(expanded.Nodes[0].Labels, "kubernetes.io/hostname=node-1")
	labels(expanded.Pods[1].Labels, "statefulset.kubernetes.io/pod-name=db-1")
	labels(expanded.Pods[1].Labels, "apps.kubernetes.io/pod-index=1")
	if port := expanded.Pods[0].Spec.Containers[0].Ports[0]; port.Name != "http" {
		t.Errorf("port %v", port)
	}
	policy := expanded.ClusterNetworkPolicies[0]
	if policy.GetUID() == "" {
		t.Error("the ClusterNetworkPolicy has no uid")
	}
	data, err := policy.MarshalJSON()
	if err != nil || !strings.Contains(string(data), `"newInThisVersion":{}`) {
		t.Errorf("the ClusterNetworkPolicy has lost a field: %s, %v", data, err)
	}
	if !expanded.Remove(policy) || len(expanded.ClusterNetworkPolicies) != 0 {
		t.Error("the ClusterNetworkPolicy can't be taken out")
	}
}

func TestAPortsNameIsHeldToKubernetesRules(t *testing.T) {
	t.Parallel()
	got := Decode("f.yaml", []byte(strings.Replace(policies, "name: http", "name: HTTP!", 1))).Err()
	if want := `spec.template.spec.containers[0].ports[0].name "HTTP!": must contain only alpha-numeric characters`; got == nil || !strings.Contains(got.Error(), want) {
		t.Errorf("got %v, want %s", got, want)
	}
}
