// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// How the cluster is looked into.
const (
	// findEvery is how often what isn't watched is asked for again.
	findEvery = 5 * time.Minute
	// findQuiet gathers what is watched and changes at once, such as all Nodes at the start.
	findQuiet = 250 * time.Millisecond
	// findAgain is when it is asked again for what could not be answered.
	findAgain = 2 * time.Second
	findTime  = 10 * time.Second
)

// finder finds out what the cluster says only here and there, and publishes it as the fact "Cluster".
type finder struct {
	client kubernetes.Interface
	log    *slog.Logger
	emit   func(core.Input)
	wake   chan struct{}

	mu    sync.Mutex
	seen  evidence
	asked bool // everything was answered at least once
	said  *schemas.Cluster
}

func newFinder(client kubernetes.Interface, log *slog.Logger, emit func(core.Input)) *finder {
	return &finder{client: client, log: log, emit: emit, wake: make(chan struct{}, 1), seen: newEvidence()}
}

// see takes what is watched anyway: the Nodes' pod CIDRs, where the Service "kubernetes" leads, and Services' addresses.
func (f *finder) see(in core.Input) {
	f.mu.Lock()
	changed := f.seen.see(in)
	f.mu.Unlock()
	if changed {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// run publishes what is found until ctx ends.
func (f *finder) run(ctx context.Context) {
	next := time.After(f.ask(ctx))
	for {
		f.say()
		select {
		case <-ctx.Done():
			return
		case <-next:
			next = time.After(f.ask(ctx))
		case <-f.wake:
			select {
			case <-time.After(findQuiet):
			case <-ctx.Done():
			}
			if f.foreign() {
				next = time.After(f.ask(ctx))
			}
		}
	}
}

// say emits what was found if it has changed, and logs each value with its origin. It says nothing before everything
// was looked at once: half of what STATE has from an earlier watcher would look like a change.
func (f *finder) say() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asked || !f.seen.listed[convert.KindNode] || !f.seen.listed[convert.KindEndpointSlice] {
		return
	}
	cluster := f.seen.cluster()
	if f.said != nil && proto.Equal(f.said, cluster) {
		return
	}
	f.said = cluster
	if c, ok := f.client.(*Client); ok {
		c.Servers(f.seen.servers)
	}
	for name, values := range map[string][]*schemas.Found{
		"pod CIDR": cluster.GetPodCidrs(), "service CIDR": cluster.GetServiceCidrs(), "API server": cluster.GetApiServers(),
	} {
		for _, v := range values {
			f.log.Info("found out about the cluster", "what", name, "value", v.GetValue(), "origin", v.GetOrigin())
		}
	}
	f.emit(core.Upsert{Fact: convert.ClusterFact(cluster)})
}

// ask asks for what isn't watched and returns when to ask again. What isn't there, or isn't allowed, is no error:
// clusters differ. What could not be answered stays as it was.
func (f *finder) ask(ctx context.Context) (again time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	again = findEvery
	for _, name := range []string{kubeadmConfig, kubeProxy, clusterInfo} {
		namespace, short, _ := strings.Cut(name, "/")
		m, err := f.client.CoreV1().ConfigMaps(namespace).Get(ctx, short, metav1.GetOptions{})
		if f.unanswered("ConfigMap "+name, err) {
			again = findAgain
			continue
		}
		f.mu.Lock()
		delete(f.seen.configMaps, name)
		if err == nil {
			f.seen.configMaps[name] = m.Data
		}
		f.mu.Unlock()
	}
	list, err := f.client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if f.unanswered("ServiceCIDRs", err) {
		again = findAgain
	} else {
		f.mu.Lock()
		f.seen.serviceCIDRs = map[string][]string{}
		if err == nil {
			for _, c := range list.Items {
				f.seen.serviceCIDRs[c.Name] = c.Spec.CIDRs
			}
		}
		f.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = f.asked || again == findEvery
	return again
}

// foreign says whether a Service has come whose address is out of no range that is known, and forgets it. Ranges whose
// Services are there can't be deleted, so this is rare: a range was added.
func (f *finder) foreign() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	foreign := f.seen.foreign
	f.seen.foreign = false
	return foreign
}

// unanswered says that a question must be asked again.
func (f *finder) unanswered(what string, err error) bool {
	switch {
	case err == nil:
		return false
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		f.log.Debug("one of the places to learn about the cluster from is missing", "place", what, "error", err)
		return false
	}
	f.log.Warn("one of the places to learn about the cluster from can't be read; trying again", "place", what, "error", err)
	return true
}

// evidence is what was seen of the cluster so far.
type evidence struct {
	listed       map[string]bool              // kinds
	nodes        map[string][]string          // pod CIDRs by Node
	servers      []netip.AddrPort             // endpoints of the Service default/kubernetes
	configMaps   map[string]map[string]string // data by "namespace/name"
	serviceCIDRs map[string][]string          // by name
	foreign      bool                         // a Service has come since whose address is in none of them
}

func newEvidence() evidence {
	return evidence{listed: map[string]bool{}, nodes: map[string][]string{}, configMaps: map[string]map[string]string{}}
}

// see takes an input and says whether it holds anything new.
func (e *evidence) see(in core.Input) (changed bool) {
	switch in := in.(type) {
	case core.List:
		changed = e.list(in)
		for _, fact := range in.Facts {
			changed = e.fact(fact) || changed
		}
	case core.Upsert:
		changed = e.fact(in.Fact)
	case core.Delete:
		if in.Object.GetKind() == convert.KindNode {
			_, changed = e.nodes[in.Object.GetName()]
			delete(e.nodes, in.Object.GetName())
		}
	}
	return changed
}

// list takes a complete list: Nodes that aren't in it are gone.
func (e *evidence) list(in core.List) (changed bool) {
	for _, kind := range in.Kinds {
		changed = changed || !e.listed[kind]
		e.listed[kind] = true
		if kind == convert.KindNode {
			changed = changed || len(e.nodes) != len(in.Facts)
			e.nodes = map[string][]string{}
		}
	}
	return changed
}

func (e *evidence) fact(fact *schemas.Fact) (changed bool) {
	name := fact.GetObject().GetName()
	if node := fact.GetNode(); node != nil {
		before, known := e.nodes[name]
		e.nodes[name] = node.GetPodCidrs()
		return !known || strings.Join(before, " ") != strings.Join(node.GetPodCidrs(), " ")
	}
	if service := fact.GetService(); service != nil {
		foreign := e.isForeign(service)
		e.foreign = e.foreign || foreign
		return foreign
	}
	slice := fact.GetEndpointSlice()
	if slice == nil || slice.GetService() != "kubernetes" || fact.GetObject().GetNamespace() != metav1.NamespaceDefault {
		return false
	}
	servers := serversOf(slice)
	changed = len(servers) > 0 && !slices.Equal(servers, e.servers)
	if changed {
		e.servers = servers
	}
	return changed
}

// isForeign says whether a Service has an address out of no known range. Clusters that have no ServiceCIDR objects never
// add a range.
func (e *evidence) isForeign(service *schemas.Service) bool {
	if len(e.serviceCIDRs) == 0 {
		return false
	}
	var known findings
	for _, texts := range e.serviceCIDRs {
		known.add("", texts...)
	}
	return slices.ContainsFunc(service.GetClusterIps(), func(raw []byte) bool {
		addr, ok := netip.AddrFromSlice(raw)
		return ok && !slices.ContainsFunc(known, func(f *schemas.Found) bool { return netip.MustParsePrefix(f.GetValue()).Contains(addr) })
	})
}
