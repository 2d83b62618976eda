// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

func object(t *testing.T, text string) manifest.Object {
	t.Helper()
	objects := manifest.Decode("f.yaml", []byte(text))
	if err := objects.Err(); err != nil {
		t.Fatal(err)
	}
	for o := range objects.All() {
		return o
	}
	t.Fatal("no object")
	return nil
}

// A load balancer's addresses are written where the lab names them, and taken out where it named them before.
func TestAServicesBalancerIsLeftToOthersUnlessNamed(t *testing.T) {
	t.Parallel()
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n"
	plain := object(t, service)
	named := object(t, service+"status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: Proxy}]}}\n")
	for _, test := range []struct {
		held, put manifest.Object
		want      any
	}{
		{nil, plain, nil},
		{nil, named, map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "192.0.2.1", "ipMode": "Proxy"}}}}},
		{plain, plain, nil},
		{named, plain, map[string]any{"loadBalancer": map[string]any{"ingress": nil}}},
	} {
		s := &Server{held: map[key]manifest.Object{}}
		k := keyOf(test.put)
		if test.held != nil {
			s.held[k] = test.held
		}
		made, err := content(test.put)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, s.status(k, test.put, made)); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
	}
}

func TestContainersGetAnImage(t *testing.T) {
	t.Parallel()
	made, err := content(object(t, `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: a}, {name: b, image: given}], initContainers: [{name: c, restartPolicy: Always}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	spec := made.Object["spec"].(map[string]any)
	var images []any
	for _, field := range []string{"containers", "initContainers"} {
		for _, c := range spec[field].([]any) {
			images = append(images, c.(map[string]any)["image"])
		}
	}
	if diff := cmp.Diff([]any{"none", "given", "none"}, images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}
