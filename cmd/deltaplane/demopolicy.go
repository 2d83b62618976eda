// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/schemas"
)

// closedFor is how long a client tries what a policy denies: a denial is silence.
const closedFor = 500 * time.Millisecond

// policy closes a Service's pods, dials them, and opens them again.
func (d *demo) policy(ctx context.Context) error {
	from, t, found := d.podAndTarget()
	if !found {
		d.step("policy", "no pod can dial a Service over TCP: there is nothing to deny")
		return nil
	}
	deny := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: t.service.Namespace, Name: "demo-deny"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: t.service.Spec.Selector}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	d.step("policy", "NetworkPolicy %s selects the pods of %s and allows no one", manifest.Name(deny), t.name())
	if err := d.apply(ctx, "deny all that dial "+t.name(), deny); err != nil {
		return err
	}
	if err := d.denied(ctx, t, from); err != nil {
		return err
	}
	objects := &manifest.Objects{}
	objects.Add(deny)
	if err := d.lab.Delete(ctx, objects); err != nil {
		return err
	}
	report, err := d.lab.Probe(ctx, plainProbe(t, from))
	if err != nil {
		return err
	}
	r := report.Results[0]
	d.point("without the policy: %s after %s", d.verdict(r.Outcome == agent.OK, string(r.Outcome)), time.Duration(r.LatencyMicros)*time.Microsecond)
	return nil
}

// podAndTarget picks a pod and a Service over TCP that it isn't behind.
func (d *demo) podAndTarget() (source, target, bool) {
	for _, from := range d.sources {
		for _, t := range d.targets {
			if from.kind == "pod" && t.protocol() == "tcp" && len(t.service.Spec.Selector) > 0 && !d.serves(from, t) {
				return from, t, true
			}
		}
	}
	return source{}, target{}, false
}

// serves says whether a pod is one of a Service's.
func (d *demo) serves(from source, t target) bool {
	for _, p := range d.lab.Cluster().Pods {
		if manifest.Name(p) != from.name || p.Namespace != t.service.Namespace {
			continue
		}
		for key, value := range t.service.Spec.Selector {
			if p.Labels[key] != value {
				return false
			}
		}
		return true
	}
	return false
}

// denied dials what a policy denies, and shows who says so.
func (d *demo) denied(ctx context.Context, t target, from source) error {
	request := plainProbe(t, from)
	request.Timeout = closedFor
	report, err := d.lab.Probe(ctx, request)
	if err != nil {
		return err
	}
	r := report.Results[0]
	d.closed, d.denies = t.name(), r.Outcome == agent.Timeout
	d.point("%s from %s: %s", t.name(), from.name, d.verdict(d.denies, string(r.Outcome)))
	if d.memory != "" {
		d.point("the model's reason: %s", r.Error)
		return nil
	}
	event := d.dropOf(ctx, func(drop *schemas.Drop) bool { return drop.GetDirection() == schemas.Direction_DIRECTION_INGRESS })
	if event == nil {
		d.fault("no event about the denial came over the bus within %s", eventPatience)
		return nil
	}
	d.point("on the bus: %s, reason %s (%s)", event.GetText(), event.GetDrop().GetReason(), event.GetNode())
	return nil
}
