// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// source is a place that connects: a node's own processes, or a pod on it.
type source struct{ node, name, kind string }

// target is one port of a Service.
type target struct {
	service  *corev1.Service
	port     corev1.ServicePort
	backends int
}

func (t target) name() string { return fmt.Sprintf("%s:%d", manifest.Name(t.service), t.port.Port) }

func (t target) protocol() string { return strings.ToLower(string(t.port.Protocol)) }

func (t target) has(family int) bool {
	return slices.ContainsFunc(manifest.ServiceAddrs(t.service), func(a netip.Addr) bool { return a.Is4() == (family == 4) })
}

func (t target) address(family int) string {
	for _, addr := range manifest.ServiceAddrs(t.service) {
		if addr.Is4() == (family == 4) {
			return netip.AddrPortFrom(addr, uint16(t.port.Port)).String()
		}
	}
	return t.name()
}

// request is how the demo connects: HTTP for TCP, an echo for UDP.
func (t target) request(from source, family int) lab.ProbeRequest {
	return lab.ProbeRequest{From: from.name, To: t.name(), Protocol: t.protocol(), Family: family, HTTP: t.protocol() == "tcp", Timeout: 5 * time.Second}
}

// look finds who can connect and what to.
func (d *demo) look() {
	cluster := d.lab.Cluster()
	for _, n := range cluster.Nodes {
		for _, p := range cluster.Pods {
			if p.Spec.NodeName == n.Name && !p.Spec.HostNetwork {
				d.sources = append(d.sources, source{n.Name, manifest.Name(p), "pod"})
				break
			}
		}
		d.sources = append(d.sources, source{n.Name, "node/" + n.Name, "node"})
	}
	// A pod that a change takes away can't connect for the whole of the story: those that stay come first.
	for i, s := range d.sources {
		if stays := stayingPod(cluster, s.node); s.kind == "pod" && stays != "" {
			d.sources[i].name = stays
		}
	}
	for _, s := range cluster.Services {
		for _, port := range s.Spec.Ports {
			if port.Protocol == corev1.ProtocolSCTP || len(manifest.ServiceAddrs(s)) == 0 {
				continue
			}
			t := target{s, port, backendsOf(cluster, s)}
			if t.backends > 0 {
				d.targets = append(d.targets, t)
			} else {
				d.empty = append(d.empty, t)
			}
		}
	}
}

func stayingPod(cluster *manifest.Objects, node string) string {
	for _, p := range cluster.Pods {
		if p.Spec.NodeName == node && !p.Spec.HostNetwork && !strings.HasPrefix(manifest.OwnerOf(p), "Deployment ") {
			return manifest.Name(p)
		}
	}
	return ""
}

func backendsOf(cluster *manifest.Objects, s *corev1.Service) (n int) {
	for _, slice := range cluster.EndpointSlices {
		if slice.Namespace == s.Namespace && slice.Labels["kubernetes.io/service-name"] == s.Name {
			n += len(slice.Endpoints)
		}
	}
	return n
}

// attemptsEach is how often each place dials each target in the step "connect".
const attemptsEach = 5

// connect dials everything from everywhere.
func (d *demo) connect(ctx context.Context) error {
	d.look()
	if len(d.targets) == 0 {
		d.step("connect", "no Service has both an address and backends: there is nothing to connect to")
		return nil
	}
	d.step("connect", "HTTP over TCP and echo over UDP through ClusterIPs, from a pod and from the node itself, on every node")
	table := newTable("FROM", "TCP IPv4", "TCP IPv6", "UDP IPv4", "UDP IPv6")
	for _, s := range d.sources {
		row := []string{s.name}
		for _, protocol := range []string{"tcp", "udp"} {
			for _, family := range []int{4, 6} {
				cell, err := d.cell(ctx, s, protocol, family)
				if err != nil {
					return err
				}
				row = append(row, cell)
			}
		}
		table.row(row...)
	}
	d.block(table.String())
	return nil
}

func (d *demo) cell(ctx context.Context, s source, protocol string, family int) (string, error) {
	good, all := 0, 0
	for _, t := range d.targets {
		if t.protocol() != protocol || !t.has(family) {
			continue
		}
		results, err := d.attempts(ctx, t, s, family)
		if err != nil {
			return "", err
		}
		for _, r := range results {
			all++
			if r.Outcome == agent.OK && r.Reached != "" {
				good++
			} else {
				d.fault("%s to %s over IPv%d: %s %s", s.name, t.name(), family, r.Outcome, r.Error)
			}
		}
	}
	d.connects += all
	if all == 0 {
		return "-", nil
	}
	return strconv.Itoa(good) + "/" + strconv.Itoa(all), nil
}

// attempts dials one target; over UDP by connected sockets and by others.
func (d *demo) attempts(ctx context.Context, t target, s source, family int) ([]agent.Result, error) {
	request := t.request(s, family)
	request.Count = attemptsEach
	report, err := d.lab.Probe(ctx, request)
	if err != nil {
		return nil, err
	}
	if t.protocol() != "udp" {
		return report.Results, nil
	}
	request.Unconnected = true
	more, err := d.lab.Probe(ctx, request)
	if err != nil {
		return nil, err
	}
	return append(report.Results, more.Results...), nil
}

// loadPause is the time from one attempt of a load client to the next.
const loadPause = 20 * time.Millisecond

// change scales a Deployment up and down and replaces its pods, and those of one that speaks UDP, while clients connect
// without pause.
func (d *demo) change(ctx context.Context) error {
	edits := d.edits()
	if len(edits) == 0 {
		d.step("change", "no Deployment serves a Service: there is nothing to scale")
		return nil
	}
	d.step("change", "pods come and go, while a client in every pod and node above connects to their Services without pause")
	stop, err := d.startLoads(edits)
	if err != nil {
		return err
	}
	for _, e := range edits {
		if err := d.edit(ctx, e); err != nil {
			return errors.Join(err, d.stopLoads(ctx, stop))
		}
	}
	if err := d.stopLoads(ctx, stop); err != nil {
		return err
	}
	d.point("%s connections, %s", grouped(uint64(d.load.Attempts)), d.verdict(d.load.Failed == 0, fmt.Sprintf("%d failed", d.load.Failed)))
	for _, text := range d.load.Failures {
		d.fault("under load: %s", text)
	}
	return nil
}

// edit is one change of a Deployment.
type edit struct {
	deployment string // namespace/name
	what       string
	make       func(*appsv1.Deployment)
}

// edits are what the demo changes: all of the first Deployment's life, and the pods of the first that speaks UDP.
func (d *demo) edits() []edit {
	deployment := d.deployment("")
	if deployment == nil {
		return nil
	}
	name, before := manifest.Name(deployment), replicasOf(deployment)
	more, fewer := before+3, max(before-1, 1)
	scale := func(from, to int32) edit {
		return edit{name, fmt.Sprintf("scale %s from %d to %d pods", name, from, to), scaleTo(to)}
	}
	edits := []edit{scale(before, more), scale(more, fewer), {name, fmt.Sprintf("replace all %d pods of %s", fewer, name), restart}, scale(fewer, before)}
	if udp := d.deployment("udp"); udp != nil && udp != deployment {
		edits = append(edits, edit{manifest.Name(udp), fmt.Sprintf("replace all %d pods of %s", replicasOf(udp), manifest.Name(udp)), restart})
	}
	return edits
}

func (d *demo) edit(ctx context.Context, e edit) error {
	for _, deployment := range d.lab.Declared().Deployments {
		if manifest.Name(deployment) == e.deployment {
			deployment = deployment.DeepCopy()
			e.make(deployment)
			return d.apply(ctx, e.what, deployment)
		}
	}
	return fmt.Errorf("there is no Deployment %s any more", e.deployment)
}

// apply changes one object and notes what it took.
func (d *demo) apply(ctx context.Context, what string, object manifest.Object) error {
	from, err := d.revision(ctx)
	if err != nil {
		return err
	}
	watch := d.stopwatch()
	objects := &manifest.Objects{}
	objects.Add(object)
	ctx, cancel := context.WithTimeout(ctx, lab.ChangeTimeout)
	defer cancel()
	if err := d.lab.Apply(ctx, objects); err != nil {
		return err
	}
	to, err := d.revision(ctx)
	if err != nil {
		return err
	}
	d.point("%s: done in %s", what, watch())
	d.changes = append(d.changes, change{what, from, to})
	return nil
}

func (d *demo) revision(ctx context.Context) (uint64, error) {
	status, err := d.lab.Status(ctx)
	return status.GetRevision(), err
}

func replicasOf(deployment *appsv1.Deployment) int32 {
	if deployment.Spec.Replicas == nil {
		return 1
	}
	return *deployment.Spec.Replicas
}

func scaleTo(replicas int32) func(*appsv1.Deployment) {
	return func(o *appsv1.Deployment) { o.Spec.Replicas = &replicas }
}

// restart is what kubectl rollout restart does: a changed template makes new pods.
func restart(o *appsv1.Deployment) {
	metav1.SetMetaDataAnnotation(&o.Spec.Template.ObjectMeta, "kubectl.kubernetes.io/restartedAt", time.Now().UTC().Format(time.RFC3339))
}

// deployment picks the first that serves a Service, by this protocol if one is given.
func (d *demo) deployment(protocol string) *appsv1.Deployment {
	for _, deployment := range d.lab.Declared().Deployments {
		serves := slices.ContainsFunc(d.targetsOf(deployment), func(t target) bool { return protocol == "" || t.protocol() == protocol })
		if serves && replicasOf(deployment) > 0 {
			return deployment
		}
	}
	return nil
}

func (d *demo) targetsOf(deployment *appsv1.Deployment) (found []target) {
	for _, t := range d.targets {
		selector := t.service.Spec.Selector
		matches := len(selector) > 0 && t.service.Namespace == deployment.Namespace
		for key, value := range selector {
			matches = matches && deployment.Spec.Template.Labels[key] == value
		}
		if matches {
			found = append(found, t)
		}
	}
	return found
}

func (d *demo) targetsOfAll(edits []edit) (found []target) {
	for _, deployment := range d.lab.Declared().Deployments {
		if slices.ContainsFunc(edits, func(e edit) bool { return e.deployment == manifest.Name(deployment) }) {
			found = append(found, d.targetsOf(deployment)...)
		}
	}
	return found
}

type stopLoad = func(context.Context) (*agent.Load, error)

// startLoads connects to every Service whose pods will change, from everywhere.
func (d *demo) startLoads(edits []edit) ([]stopLoad, error) {
	var stops []stopLoad
	for _, t := range d.targetsOfAll(edits) {
		for _, s := range d.sources {
			for _, family := range []int{4, 6} {
				if !t.has(family) {
					continue
				}
				stop, err := d.lab.Load(t.request(s, family), loadPause)
				if err != nil {
					return nil, err
				}
				stops = append(stops, stop)
			}
		}
	}
	return stops, nil
}

func (d *demo) stopLoads(ctx context.Context, stops []stopLoad) error {
	var errs []error
	for _, stop := range stops {
		load, err := stop(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.load.Attempts += load.Attempts
		d.load.Failed += load.Failed
		d.load.Failures = append(d.load.Failures, load.Failures...)
	}
	return errors.Join(errs...)
}
