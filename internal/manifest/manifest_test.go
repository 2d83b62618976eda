// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const pod = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop}
spec:
  containers: [{name: main, image: any}]
`

// What is wrong with a document is said so that a person finds the place, and the others load.
func TestBadDocumentsAreSetAside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, document, want string }{
		{"unknown field", "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{port: 80, prot: TCP}]}\n", `f.yaml: document 2: Service shop/cart: unknown field "spec.ports[0].prot"`},
		{"unknown kind", "apiVersion: v1\nkind: Gateway\nmetadata: {name: x}\n", `f.yaml: document 2: Gateway x: kind "Gateway" is not one that deltaplane reads: want ClusterNetworkPolicy, DaemonSet, Deployment,`},
		{"old version", "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: x}\n", `apiVersion "extensions/v1beta1": Deployment is read in version apps/v1`},
		{"no kind", "metadata: {name: x}\n", "kind is missing"},
		{"no YAML", "a: [\n", "f.yaml: document 2: this is no YAML:"},
		{"a list of words", "- a\n- b\n", "this is no Kubernetes object"},
		{"same key twice", "apiVersion: v1\nkind: Namespace\nkind: Node\nmetadata: {name: x}\n", `key "kind" already set in map`},
		{"no name", "apiVersion: v1\nkind: Namespace\n", "Namespace: metadata.name is missing"},
		{"bad name", "apiVersion: v1\nkind: Service\nmetadata: {name: Cart_1}\nspec: {ports: [{port: 80}]}\n", `metadata.name "Cart_1"`},
		{"text for a number", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: http}]}\n", "Service default/c: spec.ports.port: a string stands where a int32 belongs"},
		{"port 0", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 0}]}\n", "spec.ports[0].port: 0 is no port: want 1 to 65535"},
		{"port 70000", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 70000}]}\n", "spec.ports[0].port: 70000 is no port"},
		{"no ports", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {}\n", "spec.ports is missing"},
		{"protocol", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 1, protocol: ICMP}]}\n", `spec.ports[0].protocol "ICMP": want TCP, UDP, SCTP`},
		{"port twice", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{name: a, port: 1}, {name: b, port: 1}]}\n", `spec.ports[1]: name "b" or port 1/TCP is here twice`},
		{"ClusterIP", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {clusterIP: 10.96.0.300, ports: [{port: 1}]}\n", `spec.clusterIPs[0]: "10.96.0.300" is no IP address`},
		{"mapped ClusterIP", "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {clusterIP: '::ffff:10.96.0.3', ports: [{port: 1}]}\n", "write 10.96.0.3"},
		{"slice family", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: c}\naddressType: IPv6\nendpoints: [{addresses: [10.0.0.1]}]\n", "endpoints[0].addresses[0]: 10.0.0.1 is no IPv6 address"},
		{"huge slice", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: c}\naddressType: IPv4\nendpoints:\n" + strings.Repeat("- addresses: [10.0.0.1]\n", 10000), "endpoints: 10000 of them, and Kubernetes takes at most 1000"},
		{"huge document", "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, annotations: {a: " + strings.Repeat("x", 10<<20) + "}}\n", "Kubernetes takes at most 3145728"},
		{"selector", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: c}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: x}]}}}\n", "doesn't match the labels of spec.template"},
		{"replicas", "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: c}\nspec: {replicas: 2000000000, selector: {matchLabels: {a: c}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: x}]}}}\n", "StatefulSet default/c: spec.replicas: 2000000000: want 0 to 20000"},
		{"fewer than no replicas", "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: c}\nspec: {replicas: -1, selector: {matchLabels: {a: c}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: x}]}}}\n", "spec.replicas: -1: want 0 to 20000"},
		{"pod CIDR", "apiVersion: v1\nkind: Node\nmetadata: {name: c}\nspec: {podCIDR: 10.0.0.0}\n", `spec.podCIDRs[0]: "10.0.0.0" is no CIDR`},
		{"twice", fmt.Sprintf(pod, "first"), "Pod shop/first is here twice: the first, in f.yaml, counts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := Decode("f.yaml", []byte(fmt.Sprintf(pod, "first")+"---\n"+c.document+"---\n"+fmt.Sprintf(pod, "last")))
			if len(got.Pods) != 2 || len(got.SetAside) != 1 {
				t.Fatalf("%d pods and set aside %v, want 2 pods and one document", len(got.Pods), got.Err())
			}
			if text := got.Err().Error(); !strings.Contains(text, c.want) {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

func TestNamesAreEnoughToDelete(t *testing.T) {
	t.Parallel()
	loader := Loader{NamesOnly: true}
	loader.Decode("f.yaml", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n"+
		"---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {a: b}}\nspec: {no: sense}\n"+
		"---\napiVersion: v1\nkind: Service\nmetadata: {namespace: shop}\n"+
		"---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: node-1}}\n"))
	var names []string
	for object := range loader.Objects().All() {
		names = append(names, object.GetObjectKind().GroupVersionKind().Kind+" "+Name(object))
	}
	if diff := cmp.Diff([]string{"Node node-1", "Service shop/cart", "Deployment default/web"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := loader.Objects().Err(); err == nil || !strings.Contains(err.Error(), "document 3: Service shop/: metadata.name is missing") {
		t.Errorf("set aside %v", err)
	}
}

func TestListsAndEmptyDocuments(t *testing.T) {
	t.Parallel()
	got := Decode("f.yaml", []byte("# nothing yet\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespac, metadata: {name: b}}\n"+
		"---\napiVersion: v1\nkind: NamespaceList\nitems: [{metadata: {name: c}}]\n"))
	var names []string
	for object := range got.All() {
		names = append(names, Name(object))
	}
	if diff := cmp.Diff([]string{"a", "c"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if err := got.Err(); err == nil || !strings.HasPrefix(err.Error(), "f.yaml: document 2: item 2: Namespac b: kind") {
		t.Errorf("set aside %v", err)
	}
}

func TestLoadReadsFoldersInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b/2.yaml": fmt.Sprintf(pod, "two"), "a.yml": fmt.Sprintf(pod, "one"), ".hidden.yaml": "x", "b/readme.txt": "x",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load([]string{dir})
	if err != nil || got.Err() != nil {
		t.Fatal(err, got.Err())
	}
	if len(got.Pods) != 2 || got.Pods[0].Name != "one" || got.Pods[1].Name != "two" {
		t.Errorf("got %v", got.Pods)
	}
	if _, err := Load([]string{filepath.Join(dir, "missing")}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing path gives %v", err)
	}
}
