// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Rendered returns the objects that `kubectl apply -k deploy/manifests` would send.
func Rendered(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../deploy/manifests")
	if err != nil {
		t.Fatalf("rendering deploy/manifests: %v", err)
	}
	var all []*unstructured.Unstructured
	for _, r := range resources.Resources() {
		object, err := r.Map()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &unstructured.Unstructured{Object: object})
	}
	return all
}

// Apply sends one object as `kubectl apply --server-side` does, refusing fields that the API server doesn't know.
func (c *Cluster) Apply(t *testing.T, object *unstructured.Unstructured, dryRun ...string) {
	t.Helper()
	resource, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())
	options := metav1.PatchOptions{FieldManager: "kubectl", FieldValidation: metav1.FieldValidationStrict, DryRun: dryRun, Force: new(true)}
	data, err := object.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Dynamic.Resource(resource).Namespace(object.GetNamespace()).
		Patch(t.Context(), object.GetName(), types.ApplyPatchType, data, options)
	if err != nil {
		t.Errorf("%s %s/%s: %v", object.GetKind(), object.GetNamespace(), object.GetName(), err)
	}
}

// Install applies the namespace and the watcher's rights, without which its token may do nothing.
func (c *Cluster) Install(t *testing.T) {
	t.Helper()
	for _, object := range Rendered(t) {
		switch object.GetKind() {
		case "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding":
			c.Apply(t, object)
		}
	}
}

func TestAPIServerTakesTheManifests(t *testing.T) {
	cluster := NewCluster(t)
	kinds := map[string]int{}
	for _, object := range Rendered(t) {
		kinds[object.GetKind()]++
		if object.GetKind() == "Namespace" {
			cluster.Apply(t, object) // a dry run of what is in it needs it
			continue
		}
		cluster.Apply(t, object, metav1.DryRunAll)
	}
	for kind, least := range map[string]int{"Deployment": 2, "DaemonSet": 2, "PodDisruptionBudget": 3, "ConfigMap": 2, "ClusterRole": 1} {
		if kinds[kind] < least {
			t.Errorf("%d objects of kind %s were rendered, want at least %d", kinds[kind], kind, least)
		}
	}
}

func TestWatcherMayReadAndNoMore(t *testing.T) {
	cluster := NewCluster(t)
	cluster.Install(t)
	type ask = authorizationv1.ResourceAttributes
	for _, tt := range []struct {
		ask  ask
		want bool
	}{
		{ask{Verb: "watch", Resource: "services"}, true},
		{ask{Verb: "list", Group: "discovery.k8s.io", Resource: "endpointslices"}, true},
		{ask{Verb: "watch", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease"}, true},
		{ask{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Name: "node-a"}, false},
		{ask{Verb: "watch", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system"}, false},
		{ask{Verb: "create", Group: "events.k8s.io", Resource: "events", Namespace: "shop"}, true},
		{ask{Verb: "list", Group: "events.k8s.io", Resource: "events", Namespace: "shop"}, false},
		{ask{Verb: "get", Resource: "configmaps", Namespace: "kube-system", Name: "kubeadm-config"}, true},
		{ask{Verb: "get", Resource: "configmaps", Namespace: "kube-system", Name: "extension-apiserver-authentication"}, false},
		{ask{Verb: "list", Resource: "configmaps", Namespace: "kube-system"}, false},
		{ask{Verb: "list", Group: "networking.k8s.io", Resource: "servicecidrs"}, true},
		{ask{Verb: "create", Group: "networking.k8s.io", Resource: "servicecidrs"}, false},
		{ask{Verb: "update", Resource: "services", Subresource: "status"}, false},
		{ask{Verb: "list", Resource: "secrets"}, false},
		{ask{Verb: "update", Resource: "services"}, false},
		{ask{Verb: "create", Resource: "pods", Namespace: "deltaplane-system"}, false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:deltaplane-system:watcher", ResourceAttributes: &tt.ask,
		}}
		answer, err := cluster.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed != tt.want {
			t.Errorf("%+v: allowed %v, want %v (%s)", tt.ask, answer.Status.Allowed, tt.want, answer.Status.Reason)
		}
	}
}
