// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// lookForEvery is, by default, how often the API server is asked whether it serves a kind that it may not have.
const lookForEvery = 3 * time.Second

// resource is a kind that a CustomResourceDefinition brings.
type resource struct {
	kind
	of schema.GroupVersionResource
}

func (s *Source) clusterNetworkPolicies() resource {
	of := convert.ClusterNetworkPolicies
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(of.GroupVersion().WithKind(convert.KindClusterNetworkPolicy))
	from := s.Dynamic.Resource(of)
	return resource{of: of, kind: kindOf(convert.KindClusterNetworkPolicy, s.Dynamic, example, func(string) dynamicResource { return dynamicResource{from} })}
}

// dynamicResource is a dynamic client with the methods of others.
type dynamicResource struct{ dynamic.ResourceInterface }

// Get gets one object.
func (r dynamicResource) Get(ctx context.Context, name string, o metav1.GetOptions) (*unstructured.Unstructured, error) {
	return r.ResourceInterface.Get(ctx, name, o)
}

// optional watches a kind while the API server serves it. While it doesn't there are no such objects: an empty list
// says so, as complete as any other. Only the API server's word that it has no such resource counts for that; as long
// as it gives no answer nothing is said.
func (s *Source) optional(ctx context.Context, r resource, emit func(core.Input)) {
	to := &store{kind: r.name, emit: emit}
	absent := false
	for ctx.Err() == nil {
		served, err := s.serves(ctx, r.of)
		switch {
		case err != nil && ctx.Err() == nil:
			s.Log.Warn("the API server doesn't say whether it has a kind; trying again", "kind", r.name, "error", err)
		case err == nil && served:
			s.Log.Info("the cluster has a kind that is optional", "kind", r.name, "resource", r.of.GroupResource())
			absent = false
			watching, end := context.WithCancel(ctx)
			s.reflector(r.until(end), to).RunWithContext(watching)
			end()
		case err == nil && !absent:
			s.Log.Info("the cluster lacks a kind that is optional; looking for it", "kind", r.name, "resource", r.of.GroupResource())
			absent = s.lacks(ctx, r.kind, emit)
		}
		select {
		case <-ctx.Done():
		case <-time.After(cmp.Or(s.lookForEvery, lookForEvery)):
		}
	}
}

// lacks emits that there are no objects of a kind, at the version that the API server is at now.
func (s *Source) lacks(ctx context.Context, k kind, emit func(core.Input)) bool {
	now, err := s.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		s.Log.Warn("the API server doesn't say at which version it is; trying again", "error", err)
		return false
	}
	s.tried(k, nil)
	emit(core.List{Kinds: []string{k.name}, Version: now.ResourceVersion})
	return true
}

// serves asks whether the API server has a resource. It answers 503, not 404, until it has read what it is to serve
// (k8s.io/apiserver routes.NotFoundHandler, k8s.io/apiextensions-apiserver).
func (s *Source) serves(ctx context.Context, r schema.GroupVersionResource) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	list := &metav1.APIResourceList{}
	err := s.Client.Discovery().RESTClient().Get().AbsPath("/apis", r.Group, r.Version).Do(ctx).Into(list)
	if apierrors.IsNotFound(err) {
		return false, s.servesOtherwise(ctx, r)
	}
	return slices.ContainsFunc(list.APIResources, func(a metav1.APIResource) bool { return a.Name == r.Resource }), err
}

// servesOtherwise is an error if the API server serves a resource in other versions alone: its objects are there, and can't
// be read, which is not to be told as if there were none.
func (s *Source) servesOtherwise(ctx context.Context, r schema.GroupVersionResource) error {
	rest := s.Client.Discovery().RESTClient()
	group := &metav1.APIGroup{}
	err := rest.Get().AbsPath("/apis", r.Group).Do(ctx).Into(group)
	if apierrors.IsNotFound(err) {
		return nil
	}
	for _, v := range group.Versions {
		list := &metav1.APIResourceList{}
		if e := rest.Get().AbsPath("/apis", r.Group, v.Version).Do(ctx).Into(list); e != nil && !apierrors.IsNotFound(e) {
			err = errors.Join(err, e)
		}
		if slices.ContainsFunc(list.APIResources, func(a metav1.APIResource) bool { return a.Name == r.Resource }) {
			return fmt.Errorf("%s is served in version %s and not in %s, which is what this watcher reads: what was known of it stays, and a new watcher "+
				"tells nothing; serve %s again", r.GroupResource(), v.Version, r.Version, r.Version)
		}
	}
	return err
}

// until returns the kind with gone called as soon as a list or watch finds that there is no such resource.
func (r resource) until(gone func()) kind {
	k, list, watches := r.kind, r.list, r.watch
	note := func(err error) {
		if apierrors.IsNotFound(err) {
			gone()
		}
	}
	k.list = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		l, err := list(ctx, o)
		note(err)
		return l, err
	}
	k.watch = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		w, err := watches(ctx, o)
		note(err)
		return w, err
	}
	return k
}
