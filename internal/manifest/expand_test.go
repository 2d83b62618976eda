// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const shop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`

func expand(t *testing.T, previous *Objects, text string, args ...any) *Objects {
	t.Helper()
	objects := Decode("f.yaml", fmt.Appendf(nil, text, args...))
	if err := objects.Err(); err != nil {
		t.Fatal(err)
	}
	got, err := Expand(objects, Options{Previous: previous})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// summary is what of pods matters here: name, node, addresses.
func summary(o *Objects) []string {
	var lines []string
	for _, pod := range o.Pods {
		lines = append(lines, fmt.Sprint(pod.Spec.NodeName, " ", PodAddrs(pod)))
	}
	return lines
}

func TestExpandMakesACluster(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, shop, 4)
	want := []string{
		"node-1 [10.244.1.2 fd00:10:244:1::2]", "node-2 [10.244.2.2 fd00:10:244:2::2]",
		"node-3 [10.244.3.2 fd00:10:244:3::2]", "node-1 [10.244.1.3 fd00:10:244:1::3]",
	}
	if diff := cmp.Diff(want, summary(got)); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.96.0.11", "fd00:10:96::b"}, got.Services[0].Spec.ClusterIPs); diff != "" {
		t.Errorf("ClusterIPs (-want +got):\n%s", diff)
	}
	if len(got.EndpointSlices) != 2 || len(got.EndpointSlices[1].Endpoints) != 4 || *got.EndpointSlices[1].Ports[0].Port != 8080 {
		t.Errorf("slices %v", got.EndpointSlices)
	}
	if err := got.Err(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(got, expand(t, nil, shop, 4)); diff != "" {
		t.Errorf("the same objects give another cluster:\n%s", diff)
	}
}

func TestExpandKeepsWhatWasThere(t *testing.T) {
	t.Parallel()
	first := expand(t, nil, shop, 4)
	second := expand(t, first, "apiVersion: v1\nkind: Service\nmetadata: {name: first}\nspec: {ports: [{port: 1}]}\n---"+shop, 5)
	if diff := cmp.Diff(summary(first), summary(second)[:4]); diff != "" {
		t.Errorf("pods moved (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff(first.Services[0].Spec.ClusterIPs, second.Services[1].Spec.ClusterIPs); diff != "" {
		t.Errorf("ClusterIPs moved (-first +second):\n%s", diff)
	}
	third := expand(t, second, shop, 1)
	fourth := expand(t, third, shop, 2)
	if diff := cmp.Diff(summary(third), summary(fourth)[:1]); diff != "" {
		t.Errorf("pods moved (-third +fourth):\n%s", diff)
	}
}

func TestAddressesAreNotReusedAtOnce(t *testing.T) {
	t.Parallel()
	before := expand(t, nil, shop, 3)
	gone := before.Clone()
	gone.Deployments = nil
	after := expand(t, gone, "apiVersion: v1\nkind: Pod\nmetadata: {name: new}\nspec: {nodeName: node-1, containers: [{name: x}]}\n---"+shop, 0)
	if got := PodAddrs(after.Pods[0])[0].String(); got != "10.244.1.3" {
		t.Errorf("the new pod has %s, want 10.244.1.3: 10.244.1.2 was in use just now", got)
	}
}

func TestChangedTemplateMakesNewPods(t *testing.T) {
	t.Parallel()
	objects := Decode("f.yaml", fmt.Appendf(nil, shop, 2))
	before, err := Expand(objects, Options{})
	if err != nil {
		t.Fatal(err)
	}
	metav1.SetMetaDataAnnotation(&objects.Deployments[0].Spec.Template.ObjectMeta, "restarted", "1")
	after, err := Expand(objects, Options{Previous: before})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range after.Pods {
		if _, kept := find(before.Pods, pod.Namespace, pod.Name); kept {
			t.Errorf("pod %s has the same name before and after", pod.Name)
		}
	}
}

func TestServiceFamilies(t *testing.T) {
	t.Parallel()
	dual := "ipFamilyPolicy: PreferDualStack, "
	for _, c := range []struct{ name, cidr, spec, want string }{
		{"default", "10.1.0.0/24,fd01::/64", "", "[IPv4] [10.96.0.11]"},
		{"default of IPv6 cluster", "fd01::/64", "", "[IPv6] [fd00:10:96::b]"},
		{"prefer both", "10.1.0.0/24,fd01::/64", dual, "[IPv4 IPv6] [10.96.0.11 fd00:10:96::b]"},
		{"prefer both, have one", "10.1.0.0/24", dual, "[IPv4] [10.96.0.11]"},
		{"require both, have one", "10.1.0.0/24", "ipFamilyPolicy: RequireDualStack, ", "Service default/s: spec.ipFamilies: the cluster has no IPv6: its Nodes have no pod CIDR of that family"},
		{"IPv6 first", "10.1.0.0/24,fd01::/64", dual + "ipFamilies: [IPv6, IPv4], ", "[IPv6 IPv4] [fd00:10:96::b 10.96.0.11]"},
		{"only IPv6", "10.1.0.0/24,fd01::/64", "ipFamilies: [IPv6], ", "[IPv6] [fd00:10:96::b]"},
		{"two addresses", "10.1.0.0/24,fd01::/64", "clusterIP: 10.96.9.9, clusterIPs: [10.96.9.9, 'fd00:10:96::99'], ", "[IPv4 IPv6] [10.96.9.9 fd00:10:96::99]"},
		{"one address, two families", "10.1.0.0/24,fd01::/64", dual + "clusterIP: 10.96.9.9, ", "[IPv4 IPv6] [10.96.9.9 fd00:10:96::b]"},
		{"headless", "10.1.0.0/24,fd01::/64", dual + "clusterIP: None, ", "[IPv4 IPv6] [None]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := expand(t, nil, "apiVersion: v1\nkind: Node\nmetadata: {name: node}\nspec: {podCIDRs: [%s]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {%sports: [{port: 80}]}\n", c.cidr, c.spec)
			text := fmt.Sprint(got.Err())
			if got.Err() == nil {
				text = fmt.Sprint(got.Services[0].Spec.IPFamilies, " ", got.Services[0].Spec.ClusterIPs)
			}
			if text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

// Conditions of endpoints, named ports with different numbers, and pods that are no endpoints.
func TestSlicesFollowPods(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: s}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ready, labels: {app: s}}
spec: {containers: [{name: x, ports: [{name: web, containerPort: 1000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other-number, labels: {app: s}}
spec: {containers: [{name: x, ports: [{name: web, containerPort: 2000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unready, labels: {app: s}}
spec: {containers: [{name: x, ports: [{name: web, containerPort: 1000}]}]}
status: {conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, labels: {app: s}, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec: {containers: [{name: x, ports: [{name: web, containerPort: 1000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, labels: {app: s}}
spec: {containers: [{name: x, ports: [{name: web, containerPort: 1000}]}]}
status: {phase: Succeeded}
`)
	var lines []string
	for _, slice := range got.EndpointSlices {
		for _, e := range slice.Endpoints {
			c := e.Conditions
			lines = append(lines, fmt.Sprintf("%s:%d ready=%t serving=%t terminating=%t", e.TargetRef.Name, *slice.Ports[0].Port, *c.Ready, *c.Serving, *c.Terminating))
		}
	}
	slices.Sort(lines)
	want := []string{
		"leaving:1000 ready=false serving=true terminating=true", "other-number:2000 ready=true serving=true terminating=false",
		"ready:1000 ready=true serving=true terminating=false", "unready:1000 ready=false serving=false terminating=false",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

func TestManyEndpointsAreSpreadOverSlices(t *testing.T) {
	t.Parallel()
	first := expand(t, nil, shop, 250)
	if n := len(first.EndpointSlices); n != 6 {
		t.Fatalf("%d slices, want 3 of each family", n)
	}
	second := expand(t, first, shop, 251)
	changed := 0
	for i, slice := range second.EndpointSlices {
		if !cmp.Equal(slice, first.EndpointSlices[i]) {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("one more pod changes %d slices, want one of each family", changed)
	}
}

func TestNodesThatAreGiven(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, `
apiVersion: v1
kind: Node
metadata: {name: a.example.com, labels: {topology.kubernetes.io/zone: z1, disk: ssd}}
spec: {podCIDR: 10.244.2.0/24}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: b}
---
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec: {nodeSelector: {disk: ssd}, containers: [{name: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: impossible}
spec: {nodeName: c, containers: [{name: x}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {hostNetwork: true, containers: [{name: x}]}
`)
	want := []string{"a.example.com [10.244.2.2]", "a.example.com [192.0.2.1]", "b [172.30.0.1 fd00:172:30::1]"}
	if diff := cmp.Diff(want, summary(got)); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.244.1.0/24", "fd00:10:244:1::/64"}, got.Nodes[1].Spec.PodCIDRs); diff != "" {
		t.Errorf("pod CIDRs (-want +got):\n%s", diff)
	}
	if text := fmt.Sprint(got.Err()); text != `Pod default/impossible: spec.nodeName: there is no Node "c"` {
		t.Errorf("set aside: %s", text)
	}
	if got.Namespaces[0].Labels[corev1.LabelMetadataName] != "default" {
		t.Errorf("namespaces %v", got.Namespaces)
	}
}

// The API server copies them too: a Pod that it holds would else differ from ours for ever.
func TestPodsAreLabelledWithTheirNodesPlace(t *testing.T) {
	objects := Decode("cluster.yaml", []byte(`
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1, topology.kubernetes.io/region: r1, disk: ssd}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop}
spec: {nodeName: n1, containers: [{name: main}]}
`))
	if err := objects.Err(); err != nil {
		t.Fatal(err)
	}
	out, err := Expand(objects, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1"}
	if diff := cmp.Diff(want, out.Pods[0].Labels); diff != "" {
		t.Error(diff)
	}
}
