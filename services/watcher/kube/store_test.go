// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", Annotations: map[string]string{"much": "text"}}}
}

func fact(name string) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Namespace", Name: name, ResourceVersion: "1"},
		State:  &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: map[string]string{"kubernetes.io/metadata.name": name}}},
	}
}

func TestAReflectorsCallsBecomeInputs(t *testing.T) {
	bad := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "bad"}, Spec: corev1.ServiceSpec{Type: "Magic"}}
	badRef := &schemas.ObjectRef{Kind: "Service", Namespace: "a", Name: "bad"}
	refusal := core.Refusal{Object: badRef, Reason: `Service a/bad: spec.type: "Magic" is not ClusterIP, NodePort, LoadBalancer or ExternalName`}
	for name, test := range map[string]struct {
		call func(*store) error
		want []core.Input
	}{
		"add":    {func(s *store) error { return s.Add(namespace("a")) }, []core.Input{core.Upsert{Fact: fact("a")}}},
		"update": {func(s *store) error { return s.Update(namespace("a")) }, []core.Input{core.Upsert{Fact: fact("a")}}},
		"delete": {func(s *store) error { return s.Delete(namespace("a")) }, []core.Input{core.Delete{Object: fact("a").GetObject()}}},
		"delete seen late": {
			func(s *store) error { return s.Delete(cache.DeletedFinalStateUnknown{Key: "a", Obj: namespace("a")}) },
			[]core.Input{core.Delete{Object: fact("a").GetObject()}},
		},
		"a bad object":            {func(s *store) error { return s.Add(bad) }, []core.Input{refusal}},
		"a bad object is deleted": {func(s *store) error { return s.Delete(bad) }, []core.Input{core.Delete{Object: badRef}}},
		"a list, trimmed or not": {
			func(s *store) error { return s.Replace([]any{namespace("a"), trimmed(namespace("b")), bad}, "7") },
			[]core.Input{core.List{Kinds: []string{"Namespace"}, Version: "7", Facts: []*schemas.Fact{fact("a"), fact("b")}, Refused: []core.Refusal{refusal}}},
		},
		"an empty list": {func(s *store) error { return s.Replace(nil, "7") }, []core.Input{core.List{Kinds: []string{"Namespace"}, Version: "7"}}},
		"a list with an object without a name": {
			func(s *store) error { return s.Replace([]any{namespace("")}, "7") },
			[]core.Input{core.List{Kinds: []string{"Namespace"}, Version: "7", Incomplete: "a Namespace in the list has no name"}},
		},
		"an object without a name": {func(s *store) error { return s.Add(namespace("")) }, nil},
		"resync":                   {(*store).Resync, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []core.Input
			s := &store{kind: "Namespace", emit: func(in core.Input) { got = append(got, in) }}
			if err := test.call(s); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("inputs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatAReflectorKeepsOfAListIsTrimmed(t *testing.T) {
	kept, err := (&store{}).Transformer()(namespace("a"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(kept)
	if i, ok := kept.(*item); err != nil || key != "a" || !ok || i.Annotations != nil {
		t.Errorf("kept %+v under %q, %v", kept, key, err)
	}
}
