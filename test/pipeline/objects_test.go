// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dotted is a node whose name is no single token of a subject.
const dotted = "node-1.rack-2.example.com"

func object(kind, apiVersion, name, rest string) string {
	return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: shop}\n%s\n", apiVersion, kind, name, rest)
}

// badObjects are files that hold what can't be used, what status says of each, and what makes it good again.
var badObjects = []struct {
	file, text string
	says       []string // of "Kind namespace/name: reason"; FOLDER stands for the folder
	repaired   string
}{
	{
		"malformed.yaml", "kind: [Service\n  - nothing: closes\n",
		[]string{"Document FOLDER/malformed.yaml: document 1: FOLDER/malformed.yaml: document 1: this is no YAML: "},
		serviceYAML("malformed", "10.96.1.1") + sliceYAML("malformed-1", "malformed", 50, 1),
	},
	{
		"field.yaml", object("Service", "v1", "typo", "spec: {clusterIP: 10.96.1.2, prots: [{port: 80}]}"),
		[]string{`Service shop/typo: FOLDER/field.yaml: document 1: Service shop/typo: unknown field "spec.prots"`},
		serviceYAML("typo", "10.96.1.2"),
	},
	{
		"long.yaml", serviceYAML("long", strings.Repeat("x", 2<<20)), // with a reason that the bus can't carry
		[]string{`Service shop/long: FOLDER/long.yaml: document 1: Service shop/long: spec.clusterIPs[0]: "xxxx`, "x… (2097"},
		serviceYAML("long", "10.96.1.3"),
	},
	{
		"kind.yaml", object("Gadget", "example.com/v1", "thing", ""),
		[]string{`kind.yaml: document 1: Gadget shop/thing: `, `kind "Gadget" is not one that deltaplane reads: want `},
		"",
	},
	{
		"kindless.yaml", "metadata: {name: kindless}\n",
		[]string{"kindless.yaml: document 1: ", "kind is missing: every document needs apiVersion and kind"},
		"",
	},
	{
		"address.yaml", object("Service", "v1", "far", "spec: {clusterIP: 10.96.0.300, ports: [{port: 80}]}"),
		[]string{`Service shop/far: FOLDER/address.yaml: document 1: Service shop/far: spec.clusterIPs[0]: "10.96.0.300" is no IP address`},
		serviceYAML("far", "10.96.1.4"),
	},
	{
		"port.yaml", object("Service", "v1", "port", "spec: {clusterIP: 10.96.1.5, ports: [{port: 70000}]}"),
		[]string{`Service shop/port: FOLDER/port.yaml: document 1: Service shop/port: spec.ports[0].port: 70000 is no port: want 1 to 65535`},
		serviceYAML("port", "10.96.1.5"),
	},
	{
		"loopback.yaml", serviceYAML("loopback", "127.0.0.1"),
		[]string{"Service shop/loopback: Service shop/loopback: spec.clusterIP[0]: 127.0.0.1 is a loopback address"},
		serviceYAML("loopback", "10.96.1.6"),
	},
	{
		"name.yaml", serviceYAML(strings.Repeat("n", 64), "10.96.1.7"),
		[]string{"Service shop/nnnn", "must be no more than 63 "},
		serviceYAML(strings.Repeat("n", 63), "10.96.1.7"),
	},
	{
		"endpoint.yaml", strings.Replace(sliceYAML("cart-2", "cart", 51, 1), "10.244.51.1", "10.244.51", 1),
		[]string{`EndpointSlice shop/cart-2: FOLDER/endpoint.yaml: document 1: EndpointSlice shop/cart-2: endpoints[0].addresses[0]: "10.244.51" is no IP address`},
		sliceYAML("cart-2", "cart", 51, 1),
	},
	{
		"huge.yaml", sliceYAML("cart-3", "cart", 100, 10_000),
		[]string{"EndpointSlice shop/cart-3: FOLDER/huge.yaml: document 1: EndpointSlice shop/cart-3: endpoints: 10000 of them, " +
			"and Kubernetes takes at most 1000 in one EndpointSlice: make several of it"},
		sliceYAML("cart-3", "cart", 100, 1000),
	},
	{
		"fat.yaml", object("Pod", "v1", "fat", "spec: {nodeName: node-2, containers: [{name: c}]}\n# "+strings.Repeat("x", 10<<20)),
		[]string{"Document FOLDER/fat.yaml: document 1: FOLDER/fat.yaml: document 1: the document has 104858", ", and Kubernetes takes at most 3145728"},
		"",
	},
	{
		"pod.yaml", object("Pod", "v1", "lost", "spec: {nodeName: node-2, containers: [{name: c}]}\nstatus: {podIPs: [{ip: 10.244.1.999}]}"),
		[]string{`Pod shop/lost: FOLDER/pod.yaml: document 1: Pod shop/lost: status.podIPs[0].ip: "10.244.1.999" is no IP address`},
		"",
	},
	{
		"node.yaml", "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-9}\nspec: {podCIDRs: [10.244.9.0]}\n",
		[]string{`Node node-9: FOLDER/node.yaml: document 1: Node node-9: spec.podCIDRs[0]: "10.244.9.0" is no CIDR such as 10.244.1.0/24`},
		"",
	},
	{
		"policy.yaml", object("NetworkPolicy", "networking.k8s.io/v1", "closed", "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10/8}}]}]}"),
		[]string{`NetworkPolicy shop/closed: the pods that it selects pass nothing: spec.ingress[0].from[0].ipBlock.cidr: "10/8" is no prefix such as 10.0.0.0/16 or fd00::/64`},
		"",
	},
	{
		"twice.yaml", serviceYAML("cart", "10.96.9.9"),
		[]string{"twice.yaml: Service shop/cart: ", "Service shop/cart is in FOLDER/good.yaml already; that one counts"},
		"",
	},
	{
		"duplicate.yaml", strings.Replace(serviceYAML("younger", "10.96.0.10"), "2026-01", "2026-06", 1),
		[]string{"Service shop/younger: its address 10.96.0.10 belongs to Service shop/cart, which is older: give one of them another address"},
		serviceYAML("younger", "10.96.1.8") + sliceYAML("younger-1", "younger", 52, 2),
	},
}

// One folder has an object of every sort that can't be used, and some good ones. Each bad one is named with its
// reason by `deltaplane status`, the good ones are in the nodes' tables; repaired, the bad ones are there too and
// nothing is named any more.
//
// Fault 12: objects that are wrong in any way are set aside by name, and the rest works.
func TestBadObjectsAreNamedAndTheRestWorks(t *testing.T) {
	p := begin(t)
	p.write("good.yaml", nodeYAML(dotted)+nodeYAML("node-2")+serviceYAML("cart", "10.96.0.10")+sliceYAML("cart-1", "cart", 1, 3))
	p.write("orphan.yaml", sliceYAML("gone-1", "gone", 90, 2)) // of a Service that doesn't exist
	for _, bad := range badObjects {
		p.write(bad.file, bad.text)
	}
	p.startBus()
	p.startServices(dotted, "node-2")

	s := p.expect("2 nodes converged", func(s status) bool {
		return s.Converged == 2 && len(s.SetAside) >= len(badObjects)
	})
	for _, bad := range badObjects {
		if !slices.ContainsFunc(s.SetAside, func(a aside) bool { return says(a.String(), p.folder, bad.says) }) {
			t.Errorf("%s: nothing says %q", bad.file, bad.says)
		}
	}
	if len(s.SetAside) != len(badObjects) {
		for _, a := range s.SetAside {
			t.Logf("set aside: %.300s", a)
		}
		t.Errorf("%d objects are set aside, want %d", len(s.SetAside), len(badObjects))
	}
	for _, node := range []string{dotted, "node-2"} {
		p.holds(node, backendsOf("cart", 1, 3)...)
	}
	events, _ := p.deltaplane("status")
	if want := `Set aside   Service shop/far: `; !strings.Contains(events, want) {
		t.Errorf("%q is missing in:\n%s", want, events)
	}

	for _, bad := range badObjects {
		if bad.repaired != "" {
			p.write(bad.file, bad.repaired)
		} else if err := os.Remove(filepath.Join(p.folder, bad.file)); err != nil {
			t.Fatal(err)
		}
	}
	p.healthy(2)
	rows := slices.Concat(backendsOf("cart", 1, 3), backendsOf("cart", 51, 1), backendsOf("cart", 100, 1000),
		backendsOf("malformed", 50, 1), backendsOf("younger", 52, 2))
	for _, node := range []string{dotted, "node-2"} {
		p.holds(node, rows...)
	}
}

// says tells whether text has every part, in whatever order.
func says(text, folder string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool {
		return !strings.Contains(text, strings.ReplaceAll(part, "FOLDER", folder))
	})
}

// An object that was good and goes bad keeps what it had until it is good again.
func TestAnObjectThatGoesBadKeepsWhatItHad(t *testing.T) {
	p := begin(t)
	p.write("nodes.yaml", nodeYAML("node-1"))
	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10")+sliceYAML("cart-1", "cart", 1, 3))
	p.startBus()
	p.startServices("node-1")
	p.holds("node-1", backendsOf("cart", 1, 3)...)

	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10")+sliceYAML("cart-1", "cart", 1, 1001))
	p.write("other.yaml", serviceYAML("other", "10.96.0.11")+sliceYAML("other-1", "other", 20, 2))
	p.holds("node-1", slices.Concat(backendsOf("cart", 1, 3), backendsOf("other", 20, 2))...)
	p.expect("the slice set aside", func(s status) bool {
		return len(s.SetAside) == 1 && s.SetAside[0].Name == "cart-1"
	})
	p.write("cart.yaml", serviceYAML("cart", "10.96.0.10")+sliceYAML("cart-1", "cart", 1, 5))
	p.healthy(1)
	p.holds("node-1", slices.Concat(backendsOf("cart", 1, 5), backendsOf("other", 20, 2))...)
}
