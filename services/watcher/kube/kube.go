// SPDX-License-Identifier: Apache-2.0

// Package kube is a source of objects: a Kubernetes API server, watched through client-go, which nothing else in
// deltaplane uses. It also finds out what the cluster doesn't say in any object, such as its pod CIDR, and which Nodes
// have not been heard of for long.
//
// It keeps no copy of the cluster: objects become facts as they arrive, and what STATE lacks is worked out by core
// from complete lists. Each list is read at the newest version: one from an API server's old cache would delete what
// it doesn't know yet. Watching goes on for ever; an API server that is away is tried again, every few seconds.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// Kinds are the kinds that the source lists.
var Kinds = convert.Kinds

// Source watches the cluster behind Client and Dynamic, which are clients of the same API server.
type Source struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface // for kinds that aren't Kubernetes' own
	Log     *slog.Logger
	// OnWatch, if set, is told of each watch that is started.
	OnWatch func(kind string)

	lookForEvery time.Duration // 0 is the default; for tests

	mu   sync.Mutex
	away map[string]error // why a kind can't be listed or watched, by kind

	complained atomic.Bool // about Leases, which need not be there
}

// Away says why the API server can't be watched at the moment; nil if it can.
func (s *Source) Away() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, err := range s.away {
		return fmt.Errorf("%s can't be watched: %w", kind, err)
	}
	return nil
}

// tried notes, and says, whether a kind could be listed or watched.
func (s *Source) tried(k kind, err error) {
	if err != nil && (!k.minor || !s.complained.Swap(true)) {
		s.Log.Warn("objects can't be listed or watched; trying again", "kind", k.name, "error", err)
	}
	if k.minor {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == nil {
		s.away = map[string]error{}
	}
	delete(s.away, k.name)
	if err != nil {
		s.away[k.name] = err
	}
}

// Run emits a complete list of each kind, then every change, until ctx ends.
func (s *Source) Run(ctx context.Context, lost map[string]bool, emit func(core.Input)) error {
	group, ctx := errgroup.WithContext(ctx)
	found := newFinder(s.Client, s.Log, emit)
	nodes := newNodes(lost, s.Log, emit)
	reflectors := []*cache.Reflector{s.reflector(s.nodeLeases(), nodes)}
	for _, k := range s.kinds() {
		emit := emit
		if k.name == convert.KindNode {
			emit = nodes.see
		}
		reflectors = append(reflectors, s.reflector(k, &store{kind: k.name, emit: func(in core.Input) {
			emit(in)
			found.see(in)
		}}))
	}
	for _, r := range reflectors {
		group.Go(func() error {
			r.RunWithContext(ctx)
			return nil
		})
	}
	group.Go(func() error {
		s.optional(ctx, s.clusterNetworkPolicies(), emit)
		return nil
	})
	group.Go(func() error {
		found.run(ctx)
		return nil
	})
	return group.Wait()
}

// again is how a list or watch that failed is tried again: one watcher may ask more often than 5,000 nodes could.
var again = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 5, Cap: 4 * time.Second}

func (s *Source) reflector(k kind, to cache.ReflectorStore) *cache.Reflector {
	backoff := again
	listWatch := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.ResourceVersion == "0" {
				o.ResourceVersion = "" // the newest, not what this API server happens to have cached
			}
			l, err := k.list(ctx, o)
			if ctx.Err() == nil {
				s.tried(k, err)
			}
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if s.OnWatch != nil {
				s.OnWatch(k.name)
			}
			if o.SendInitialEvents != nil {
				o.ResourceVersion = "" // as above
			}
			w, err := k.watch(ctx, o)
			if ctx.Err() == nil && (err == nil || o.SendInitialEvents == nil) { // old servers can't send those: then it lists
				s.tried(k, err)
			}
			return w, err
		},
	}
	return cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(listWatch, k.client), k.example, to,
		cache.ReflectorOptions{Name: "deltaplane " + k.name, TypeDescription: k.name, Backoff: &backoff})
}

// kind is how one kind is listed and watched, and one of its objects got.
type kind struct {
	name    string
	client  any // that list and watch ask
	example runtime.Object
	list    func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch   func(context.Context, metav1.ListOptions) (watch.Interface, error)
	get     func(ctx context.Context, namespace, name string) (metav1.Object, error)
	// minor says that the source isn't away where this kind can't be watched.
	minor bool
}

// client is what client-go has for each kind, with L the kind's list and O its object.
type client[L runtime.Object, O metav1.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	Get(context.Context, string, metav1.GetOptions) (O, error)
}

func kindOf[L runtime.Object, O metav1.Object, C client[L, O]](name string, asks any, example runtime.Object, in func(namespace string) C) kind {
	all := in(metav1.NamespaceAll)
	return kind{
		name: name, client: asks, example: example, watch: all.Watch,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
		get: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return in(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	}
}

// everywhere is for kinds that have no namespace.
func everywhere[C any](client C) func(string) C { return func(string) C { return client } }

func (s *Source) kinds() []kind {
	c := s.Client
	return []kind{
		kindOf(convert.KindNamespace, c, &corev1.Namespace{}, everywhere(c.CoreV1().Namespaces())),
		kindOf(convert.KindNode, c, &corev1.Node{}, everywhere(c.CoreV1().Nodes())),
		kindOf(convert.KindService, c, &corev1.Service{}, c.CoreV1().Services),
		kindOf(convert.KindEndpointSlice, c, &discoveryv1.EndpointSlice{}, c.DiscoveryV1().EndpointSlices),
		kindOf(convert.KindPod, c, &corev1.Pod{}, c.CoreV1().Pods),
		kindOf(convert.KindNetworkPolicy, c, &networkingv1.NetworkPolicy{}, c.NetworkingV1().NetworkPolicies),
	}
}
