// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"testing"
)

// Whatever a file holds, each document of it ends up in a list or is set aside with a reason, and what is in the lists
// can be expanded again and again.
func FuzzDecodeAndExpand(f *testing.F) {
	f.Add(fmt.Appendf(nil, shop, 3))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.0.0.0/30}}]\n"))
	f.Add([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None, ipFamilies: [IPv6, IPv6], ports: [{port: 1}]}\n"))
	f.Add([]byte("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: FQDN\nendpoints: [{}]\n"))
	f.Add([]byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: s}\nspec: {replicas: -1, selector: {}, template: {spec: {containers: [{name: a}]}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects := Decode("f.yaml", data)
		for _, e := range objects.SetAside {
			if e.Error() == "" {
				t.Error("a document is set aside without a reason")
			}
		}
		for object := range objects.All() {
			if _, _, replicas, _ := workload(object); replicas > 100 {
				return // right, but slow
			}
		}
		once, err := Expand(objects, Options{})
		if err != nil {
			return
		}
		if _, err := Expand(objects, Options{Previous: once}); err != nil {
			t.Errorf("expanded once, but not twice: %v", err)
		}
	})
}
