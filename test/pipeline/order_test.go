// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"
	"slices"
	"testing"
)

// step is a file, and the object in it that comes last.
type step struct{ file, text, object string }

// Each object comes alone, and is live before the next one is there: as people write them, the other way round (slices
// before their Service, a policy before its pods, pods before their namespace and node), and from the middle.
//
// Fault 7: objects that reach the services one by one, in any order, come to the same tables.
func TestObjectsComeInAnyOrder(t *testing.T) {
	steps := []step{
		{"node.yaml", nodeYAML("node-1"), "node/node-1"},
		{"namespace.yaml", "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n", "namespace/shop"},
		{"pods.yaml", podYAML("shop", "a", 1) + podYAML("shop", "b", 2), "pod/shop/b"},
		{"service.yaml", serviceYAML("cart", "10.96.0.10"), "service/shop/cart"},
		{"slice.yaml", sliceYAML("cart-1", "cart", 1, 2), "endpointslice/shop/cart-1"},
		{"policy.yaml", policyYAML("shop", "p", "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}"), "networkpolicy/shop/p"},
	}
	backwards := slices.Clone(steps)
	slices.Reverse(backwards)
	for i, order := range [][]step{steps, backwards, append(slices.Clone(steps[3:]), steps[:3]...)} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			p := begin(t)
			p.startBus()
			p.startServices("node-1")
			for _, s := range order {
				p.write(s.file, s.text)
				if out, err := p.deltaplane("wait", s.object); err != "" {
					t.Fatalf("%s: %s%s", s.object, out, err)
				}
			}
			p.healthy(1)
			p.holds("node-1", backendsOf("cart", 1, 2)...)
			p.judges(p.connect(), "node-1", map[string]string{"shop/a": "isolate/open", "shop/b": "open/open"})
		})
	}
}
