// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

// Apply adds objects or replaces those of the same name, and returns when that is live on every node.
func (l *Lab) Apply(ctx context.Context, objects *manifest.Objects) error {
	return l.Exchange(ctx, &manifest.Objects{}, objects)
}

// Delete takes objects out, by kind and name, and returns when they are gone from every node.
func (l *Lab) Delete(ctx context.Context, objects *manifest.Objects) error {
	return l.Exchange(ctx, objects, &manifest.Objects{})
}

// Exchange is Delete of some objects and Apply of others in one change: of what is in both, the latter is there.
func (l *Lab) Exchange(ctx context.Context, old, next *manifest.Objects) error {
	return l.changeTo(ctx, exchange(old, next))
}

// Submit is Exchange that returns when the change is published, wherever it is live: the bus may be away. No pod or node
// may go with it, for those wait until nobody is sent there.
func (l *Lab) Submit(ctx context.Context, old, next *manifest.Objects) error {
	l.change.Lock()
	defer l.change.Unlock()
	wanted := l.Declared()
	if err := exchange(old, next)(wanted); err != nil {
		return err
	}
	target, err := l.expand(wanted)
	if err != nil {
		return err
	}
	if leaving := l.leaving(target); len(leaving) > 0 || len(l.obsolete(target).nodes) > 0 {
		return fmt.Errorf("submit a change: %d pods or their nodes would go with it; apply it", len(leaving))
	}
	l.mu.Lock()
	l.declared = wanted
	l.mu.Unlock()
	_, err = l.advance(ctx, wanted)
	return err
}

// exchange takes some objects out and puts others in.
func exchange(old, next *manifest.Objects) func(declared *manifest.Objects) error {
	return func(declared *manifest.Objects) error {
		var missing []error
		for object := range old.All() {
			if !declared.Remove(object) {
				missing = append(missing, fmt.Errorf("%s %s isn't there", object.GetObjectKind().GroupVersionKind().Kind, manifest.Name(object)))
			}
		}
		for object := range next.All() {
			declared.Add(object)
		}
		return errors.Join(missing...)
	}
}

// Declared returns the objects as they were applied. The caller doesn't change them.
func (l *Lab) Declared() *manifest.Objects {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.declared.Clone()
}

// changeTo goes from the cluster as it is to what edit makes of what was applied, in the steps that Kubernetes takes:
// new pods serve before they are published, old ones are terminating before they go.
func (l *Lab) changeTo(ctx context.Context, edit func(*manifest.Objects) error) error {
	l.change.Lock()
	defer l.change.Unlock()
	wanted := l.Declared()
	if err := edit(wanted); err != nil {
		return err
	}
	target, err := l.expand(wanted)
	if err != nil {
		return err
	}
	start := l.Cluster()
	leaving := l.leaving(target)
	l.mu.Lock()
	l.declared = wanted
	l.mu.Unlock()
	if len(leaving) > 0 {
		if err := l.replace(ctx, wanted, leaving); err != nil {
			return err
		}
	}
	removed, err := l.advance(ctx, wanted)
	if err != nil {
		return err
	}
	if err := l.Converged(ctx); err != nil {
		return err
	}
	return errors.Join(l.removeAll(ctx, removed), l.dir.writeState(l.State()), newlySetAside(start, l.Cluster()))
}

// newlySetAside tells which objects this change could not expand; all else is live.
func newlySetAside(before, after *manifest.Objects) error {
	known := map[string]bool{}
	for _, e := range before.SetAside {
		known[e.Error()] = true
	}
	var errs []error
	for _, e := range after.SetAside {
		if !known[e.Error()] {
			errs = append(errs, fmt.Errorf("set aside: %w", e))
		}
	}
	return errors.Join(errs...)
}

// leaving lists the pods that won't be there, or not as they are.
func (l *Lab) leaving(target *manifest.Objects) []*corev1.Pod {
	next := map[string]*corev1.Pod{}
	for _, p := range target.Pods {
		next[manifest.Name(p)] = p
	}
	var gone []*corev1.Pod
	for _, p := range l.Cluster().Pods {
		if kept := next[manifest.Name(p)]; kept == nil || !sameSandbox(p, kept) {
			gone = append(gone, p)
		}
	}
	return gone
}

// sameSandbox says whether a pod can go on as it is: same place, same addresses, same ports.
func sameSandbox(a, b *corev1.Pod) bool {
	return a.Spec.NodeName == b.Spec.NodeName && a.Spec.HostNetwork == b.Spec.HostNetwork &&
		a.Labels[manifest.LabelTemplate] == b.Labels[manifest.LabelTemplate] &&
		slices.Equal(manifest.PodAddrs(a), manifest.PodAddrs(b)) && slices.Equal(portsOf(a), portsOf(b))
}

// replace brings the new pods beside the old ones, then takes the old ones out of service and lets them finish.
func (l *Lab) replace(ctx context.Context, wanted *manifest.Objects, leaving []*corev1.Pod) error {
	if _, err := l.advance(ctx, with(wanted, leaving)); err != nil {
		return err
	}
	if err := l.Converged(ctx); err != nil {
		return err
	}
	now := metav1.Now()
	var terminating []*corev1.Pod
	for _, p := range leaving {
		p = p.DeepCopy()
		p.DeletionTimestamp = &now
		terminating = append(terminating, p)
	}
	if _, err := l.advance(ctx, with(wanted, terminating)); err != nil {
		return err
	}
	if err := l.Converged(ctx); err != nil {
		return err
	}
	if err := l.drain(ctx, leaving); err != nil {
		return err
	}
	return l.removeReplaced(ctx, wanted, leaving)
}

// with returns objects that have these pods besides their own.
func with(objects *manifest.Objects, pods []*corev1.Pod) *manifest.Objects {
	all := objects.Clone()
	for _, p := range pods {
		all.Add(p)
	}
	return all
}

// graceMost bounds how long a pod may go on with what it has.
const graceMost = 5 * time.Second

// drain waits until the pods have nothing in hand, or their grace is over.
func (l *Lab) drain(ctx context.Context, leaving []*corev1.Pod) error {
	grace, cancel := context.WithTimeout(ctx, graceMost)
	defer cancel()
	for _, object := range leaving {
		l.mu.Lock()
		p := l.pods[manifest.Name(object)]
		l.mu.Unlock()
		if p != nil && p.server != nil {
			p.server.Drain(grace)
		}
	}
	return ctx.Err()
}

// removeReplaced takes down pods whose names come again: a name has one namespace.
func (l *Lab) removeReplaced(ctx context.Context, wanted *manifest.Objects, leaving []*corev1.Pod) error {
	target, err := l.expand(wanted)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range leaving {
		if slices.ContainsFunc(target.Pods, func(o *corev1.Pod) bool { return manifest.Name(o) == manifest.Name(p) }) {
			errs = append(errs, l.removePod(ctx, manifest.Name(p)))
			l.mu.Lock()
			l.cluster.Remove(p)
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// removal is what is left to be taken down once nobody is sent there any more.
type removal struct{ pods, nodes []string }

// advance makes objects the cluster: it expands them, makes what is new and publishes. What is no longer there goes on
// running until removeAll.
func (l *Lab) advance(ctx context.Context, objects *manifest.Objects) (removal, error) {
	next, err := l.expand(objects)
	if err != nil {
		return removal{}, err
	}
	for _, e := range next.SetAside {
		l.log.Warn("an object is set aside", "error", e)
	}
	if err := l.realise(next); err != nil {
		return removal{}, err
	}
	l.mu.Lock()
	l.cluster = next
	l.mu.Unlock()
	if err := l.publish(ctx, next); err != nil {
		return removal{}, err
	}
	return l.obsolete(next), nil
}

// expand works out the cluster that objects describe. As an API server does, it says where Services' addresses come from.
func (l *Lab) expand(objects *manifest.Objects) (*manifest.Objects, error) {
	ranges := l.options.ServiceCIDRs
	next, err := manifest.Expand(objects, manifest.Options{Nodes: l.options.Nodes, Previous: l.Cluster(), ServiceCIDRs: ranges})
	if err != nil || len(next.ServiceCIDRs) > 0 && len(ranges) == 0 {
		return next, err
	}
	if len(ranges) == 0 {
		ranges = manifest.DefaultServiceCIDRs
	}
	own := &networkingv1.ServiceCIDR{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
	}
	for _, p := range ranges {
		own.Spec.CIDRs = append(own.Spec.CIDRs, p.String())
	}
	next.ServiceCIDRs = []*networkingv1.ServiceCIDR{own}
	return next, nil
}

// realise makes the namespaces of nodes and pods that are new.
func (l *Lab) realise(next *manifest.Objects) error {
	for _, object := range next.Nodes {
		if l.node(object.Name) == nil {
			if err := l.addNode(object); err != nil {
				return err
			}
		}
	}
	for _, object := range next.Pods {
		if l.pod(manifest.Name(object)) == nil && !manifest.Finished(object) {
			if err := l.addPod(object); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) node(name string) *node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[name]
}

func (l *Lab) pod(name string) *pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pods[name]
}

func (l *Lab) obsolete(next *manifest.Objects) (r removal) {
	kept := map[string]bool{}
	for _, p := range next.Pods {
		kept[manifest.Name(p)] = true
	}
	for _, n := range next.Nodes {
		kept["node/"+n.Name] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.pods {
		if !kept[name] {
			r.pods = append(r.pods, name)
		}
	}
	for name := range l.nodes {
		if !kept["node/"+name] {
			r.nodes = append(r.nodes, name)
		}
	}
	return r
}

func (l *Lab) removeAll(ctx context.Context, r removal) error {
	var errs []error
	for _, name := range r.pods {
		errs = append(errs, l.removePod(ctx, name))
	}
	for _, name := range r.nodes {
		errs = append(errs, l.removeNode(ctx, name))
	}
	return errors.Join(errs...)
}
