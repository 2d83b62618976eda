// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/lab/apiserver"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// manager is the field manager of all that the lab writes.
const manager = "deltaplane-lab"

// sink is where objects go: a folder that the watcher reads, or a real API server.
type sink interface {
	// Put makes or replaces objects, in this order.
	Put(ctx context.Context, objects []manifest.Object) error
	// Remove takes out all that was put but these.
	Remove(ctx context.Context, kept []manifest.Object) error
	// Close takes out what was put, if it would outlive the lab.
	Close(ctx context.Context) error
}

func (l *Lab) startSink(ctx context.Context) (err error) {
	if l.options.Kubeconfig == "" {
		l.sink = newFolder(l.dir.manifests())
		return nil
	}
	l.sink, err = apiserver.New(ctx, l.options.Kubeconfig, manager)
	return err
}

func (l *Lab) closeSink(ctx context.Context) error {
	if l.sink == nil {
		return nil
	}
	return l.sink.Close(ctx)
}

// publish says what the cluster is now.
func (l *Lab) publish(ctx context.Context, next *manifest.Objects) error {
	var put []manifest.Object
	for object := range next.Watched() {
		put = append(put, object)
	}
	if l.options.Kubeconfig == "" { // an API server has its own
		for _, object := range next.ServiceCIDRs {
			put = append(put, object)
		}
	}
	// What refers to others comes after them, and goes before them.
	slices.SortStableFunc(put, func(a, b manifest.Object) int { return rank(a) - rank(b) })
	if err := l.sink.Put(ctx, put); err != nil {
		return err
	}
	return l.sink.Remove(ctx, put)
}

// rank puts EndpointSlices before the Services that they belong to: a reader that makes slices for Services without
// any then never sees a Service without its own. Policies come before the pods that they select: no reader sees one
// unprotected.
func rank(object manifest.Object) int {
	switch object.(type) {
	case *corev1.Namespace:
		return 0
	case *networkingv1.NetworkPolicy, *unstructured.Unstructured:
		return 1
	case *corev1.Node:
		return 2
	case *corev1.Pod:
		return 3
	case *discoveryv1.EndpointSlice:
		return 4
	}
	return 5
}

// folder is a directory with one file an object, as the watcher's directory source reads it. It adds what an API
// server would: resource versions, creation times and who changed what.
type folder struct {
	path    string
	version uint64
	files   map[string]manifest.Object // by file name, without what the folder adds
	created map[string]metav1.Time
}

func newFolder(path string) *folder {
	return &folder{path: path, files: map[string]manifest.Object{}, created: map[string]metav1.Time{}}
}

// Put writes the objects that have changed.
func (f *folder) Put(_ context.Context, objects []manifest.Object) error {
	for _, object := range objects {
		name := fileOf(object)
		if old, ok := f.files[name]; ok && reflect.DeepEqual(old, object) {
			continue
		}
		data, err := yaml.Marshal(f.stamp(name, object))
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := writeFile(filepath.Join(f.path, name), data); err != nil {
			return err
		}
		f.files[name] = object
	}
	return nil
}

// Remove removes the files of all objects but these.
func (f *folder) Remove(_ context.Context, kept []manifest.Object) error {
	names := map[string]bool{}
	for _, object := range kept {
		names[fileOf(object)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		if names[name] {
			continue
		}
		if err := os.Remove(filepath.Join(f.path, name)); err != nil {
			return fmt.Errorf("remove an object: %w", err)
		}
		delete(f.files, name)
		delete(f.created, name)
	}
	return nil
}

// Close has nothing to do: the folder goes with the lab.
func (f *folder) Close(context.Context) error { return nil }

func (f *folder) stamp(name string, object manifest.Object) manifest.Object {
	now := metav1.NewTime(time.Now().UTC())
	if _, known := f.created[name]; !known {
		f.created[name] = now
	}
	f.version++
	object = object.DeepCopyObject().(manifest.Object)
	object.SetResourceVersion(strconv.FormatUint(f.version, 10))
	if created := object.GetCreationTimestamp(); created.IsZero() {
		object.SetCreationTimestamp(f.created[name])
	}
	object.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Time: &now}})
	if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
		metav1.SetMetaDataAnnotation(&slice.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, now.Format(time.RFC3339Nano))
	}
	return object
}

func fileOf(object manifest.Object) string {
	kind := object.GetObjectKind().GroupVersionKind().Kind
	if object.GetNamespace() == "" {
		return kind + "." + object.GetName() + ".yaml"
	}
	return kind + "." + object.GetNamespace() + "." + object.GetName() + ".yaml"
}
