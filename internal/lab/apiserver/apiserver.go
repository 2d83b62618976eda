// SPDX-License-Identifier: Apache-2.0

// Package apiserver writes a lab's objects to a real Kubernetes API server, as scheduler, kubelets and controllers
// would: with status, and with node names on pods. Only this part of the lab uses client-go.
//
// It promises to touch no object that it hasn't made itself, and to remove those at the end.
package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

// Server is an API server that objects are put to.
type Server struct {
	client  dynamic.Interface
	manager string
	held    map[key]manifest.Object // as they were put last
}

type key struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

// New connects to the API server that a kubeconfig names.
func New(_ context.Context, kubeconfig, manager string) (*Server, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	config.QPS, config.Burst, config.UserAgent = 1000, 1000, manager
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server of %s: %w", kubeconfig, err)
	}
	return &Server{client: client, manager: manager, held: map[key]manifest.Object{}}, nil
}

// Put makes or replaces objects, with their status.
func (s *Server) Put(ctx context.Context, objects []manifest.Object) error {
	for _, object := range objects {
		k := keyOf(object)
		if held, ok := s.held[k]; ok && equal(held, object) {
			continue
		}
		if err := s.put(ctx, k, object); err != nil {
			return fmt.Errorf("put %s %s: %w", k.resource.Resource, manifest.Name(object), err)
		}
		s.held[k] = object
	}
	return nil
}

func (s *Server) put(ctx context.Context, k key, object manifest.Object) error {
	if object.GetDeletionTimestamp() != nil {
		// A pod that is leaving stays until its grace is over: Remove ends it.
		err := s.resource(k).Delete(ctx, k.name, metav1.DeleteOptions{})
		return ignoreNotFound(err)
	}
	content, err := content(object)
	if err != nil {
		return err
	}
	// A fresh map each time: the status of a new object is dropped by the first write.
	err = s.apply(ctx, k, content.DeepCopy())
	if apierrors.IsInvalid(err) && s.immutable(k) {
		err = nil // a pod's specification can't change, and what the lab says of it hasn't
	}
	if status := s.status(k, object, content); err == nil && status != nil {
		err = s.patchStatus(ctx, k, status)
	}
	return err
}

// status returns what the lab says of an object's status; nil if that is nothing. A Service's load balancer may be
// someone else's, unless it was the lab that named it.
func (s *Server) status(k key, object manifest.Object, content *unstructured.Unstructured) any {
	service, ok := object.(*corev1.Service)
	if !ok {
		if k.resource.Resource == "pods" || k.resource.Resource == "nodes" {
			return content.Object["status"]
		}
		return nil
	}
	before, _ := s.held[k].(*corev1.Service)
	switch {
	case len(service.Status.LoadBalancer.Ingress) > 0:
		return content.Object["status"]
	case before != nil && len(before.Status.LoadBalancer.Ingress) > 0:
		return map[string]any{"loadBalancer": map[string]any{"ingress": nil}}
	}
	return nil
}

func (s *Server) immutable(k key) bool {
	_, held := s.held[k]
	return held && k.resource.Resource == "pods"
}

func (s *Server) apply(ctx context.Context, k key, content *unstructured.Unstructured) error {
	unstructured.RemoveNestedField(content.Object, "status")
	_, err := s.resource(k).Apply(ctx, k.name, content, metav1.ApplyOptions{FieldManager: s.manager, Force: true})
	return err
}

// patchStatus replaces the status. It isn't applied: two addresses of one type, as a Node of two families has them,
// are duplicates to server-side apply.
func (s *Server) patchStatus(ctx context.Context, k key, status any) error {
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return fmt.Errorf("write the status as JSON: %w", err)
	}
	_, err = s.resource(k).Patch(ctx, k.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: s.manager}, "status")
	return err
}

// Remove deletes all that was put but these, pods without further grace.
func (s *Server) Remove(ctx context.Context, kept []manifest.Object) error {
	keep := map[key]bool{}
	for _, object := range kept {
		keep[keyOf(object)] = true
	}
	var gone []key
	for k := range s.held {
		if !keep[k] {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, func(a, b key) int {
		return strings.Compare(a.resource.Resource+a.namespace+a.name, b.resource.Resource+b.namespace+b.name)
	})
	var now int64
	for _, k := range gone {
		if err := ignoreNotFound(s.resource(k).Delete(ctx, k.name, metav1.DeleteOptions{GracePeriodSeconds: &now})); err != nil {
			return fmt.Errorf("delete %s %s/%s: %w", k.resource.Resource, k.namespace, k.name, err)
		}
		delete(s.held, k)
	}
	return nil
}

// Close deletes all that was put but namespaces, which others may use.
func (s *Server) Close(ctx context.Context) error {
	var namespaces []manifest.Object
	for _, object := range s.held {
		if _, ok := object.(*corev1.Namespace); ok {
			namespaces = append(namespaces, object)
		}
	}
	return s.Remove(ctx, namespaces)
}

func (s *Server) resource(k key) dynamic.ResourceInterface {
	if k.namespace == "" {
		return s.client.Resource(k.resource)
	}
	return s.client.Resource(k.resource).Namespace(k.namespace)
}

// content is an object as it is applied: what the API server makes itself is left out.
func content(object manifest.Object) (*unstructured.Unstructured, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: fields}
	for _, field := range []string{"uid", "creationTimestamp", "resourceVersion", "managedFields", "ownerReferences"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	if pod, ok := object.(*corev1.Pod); ok {
		fixPod(u, pod)
	}
	return u, nil
}

// fixPod fills in what the API server insists on and plain YAML may leave out.
func fixPod(u *unstructured.Unstructured, pod *corev1.Pod) {
	for field, given := range map[string][]corev1.Container{"containers": pod.Spec.Containers, "initContainers": pod.Spec.InitContainers} {
		containers, found, err := unstructured.NestedSlice(u.Object, "spec", field)
		if err != nil || !found {
			continue
		}
		for i := range containers {
			if c, ok := containers[i].(map[string]any); ok && given[i].Image == "" {
				c["image"] = "none"
			}
		}
		// Fails only on content that isn't JSON, which it was made of.
		_ = unstructured.SetNestedSlice(u.Object, containers, "spec", field)
	}
}

func equal(a, b manifest.Object) bool {
	return apiequality.Semantic.DeepEqual(a, b)
}

func keyOf(object manifest.Object) key {
	kind := object.GetObjectKind().GroupVersionKind()
	resource := strings.ToLower(kind.Kind) + "s"
	if stem, ok := strings.CutSuffix(resource, "ys"); ok { // NetworkPolicy, ClusterNetworkPolicy
		resource = stem + "ies"
	}
	return key{kind.GroupVersion().WithResource(resource), object.GetNamespace(), object.GetName()}
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
