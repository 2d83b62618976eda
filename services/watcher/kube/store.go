// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// store takes what a reflector sees of one kind and keeps nothing.
type store struct {
	kind string
	emit func(core.Input)
}

var _ cache.TransformingStore = (*store)(nil)

// Transformer makes the reflector keep facts, not whole objects, while it collects a list.
func (s *store) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return trimmed(object), nil }
}

// Add emits an object that has come.
func (s *store) Add(object any) error { return s.Update(object) }

// Update emits an object that has changed.
func (s *store) Update(object any) error {
	if in := trimmed(object).input; in != nil {
		s.emit(in)
	}
	return nil
}

// Delete emits an object that was seen to go.
func (s *store) Delete(object any) error {
	if ref := refOf(trimmed(object).input); ref != nil {
		s.emit(core.Delete{Object: ref})
	}
	return nil
}

// Replace emits a complete list: a reflector calls it only with all objects of the kind.
func (s *store) Replace(objects []any, version string) error {
	list := core.List{Kinds: []string{s.kind}, Version: version}
	for _, object := range objects {
		switch in := trimmed(object).input.(type) {
		case core.Upsert:
			list.Facts = append(list.Facts, in.Fact)
		case core.Refusal:
			list.Refused = append(list.Refused, in)
		default:
			list.Incomplete = fmt.Sprintf("a %s in the list has no name", s.kind)
		}
	}
	s.emit(list)
	return nil
}

// Resync does nothing: nothing is kept that could have been missed.
func (s *store) Resync() error { return nil }

// item is an object of which only the fact, or the refusal, is left, and the name by which client-go tells it.
type item struct {
	metav1.ObjectMeta
	input core.Input
}

// trimmed makes an item of an object. One without a name, which no API server sends, has no input.
func trimmed(object any) *item {
	switch o := object.(type) {
	case *item:
		return o
	case cache.DeletedFinalStateUnknown:
		return trimmed(o.Obj)
	case runtime.Object:
		ref, err := convert.Ref(o)
		if err != nil {
			return &item{}
		}
		made := &item{ObjectMeta: metav1.ObjectMeta{Namespace: ref.GetNamespace(), Name: ref.GetName()}}
		fact, err := convert.Fact(o)
		if err != nil {
			made.input = core.Refusal{Object: ref, Reason: err.Error()}
		} else {
			made.input = core.Upsert{Fact: fact}
		}
		return made
	}
	return &item{}
}

func refOf(in core.Input) *schemas.ObjectRef {
	switch in := in.(type) {
	case core.Upsert:
		return in.Fact.GetObject()
	case core.Refusal:
		return in.Object
	}
	return nil
}
