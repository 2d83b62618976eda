// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// How many Events may be written: they are for people, and cost the API server as much as other objects. What is wrong
// and what is well have budgets of their own.
const (
	eventsPerSecond = 1
	eventsAtOnce    = 25
	maxNote         = 1024 // bytes; the API server takes no more (k8s.io/kubernetes pkg/apis/core/validation)
)

// Recorder writes Events of objects, which kubectl describe shows. The same thing said of the same object again within
// some minutes becomes one Event with a count (KEP-383).
type Recorder struct {
	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder
	warnings    flowcontrol.PassiveRateLimiter
	normal      flowcontrol.PassiveRateLimiter
	// OnDropped is told of each Event that isn't written because there are too many.
	OnDropped func()
}

// NewRecorder returns a Recorder that writes once it is started.
func NewRecorder(client kubernetes.Interface, onDropped func()) *Recorder {
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	return &Recorder{
		broadcaster: b, recorder: b.NewRecorder(scheme.Scheme, "deltaplane-watcher"), OnDropped: onDropped,
		warnings: flowcontrol.NewTokenBucketPassiveRateLimiter(eventsPerSecond, eventsAtOnce),
		normal:   flowcontrol.NewTokenBucketPassiveRateLimiter(eventsPerSecond, eventsAtOnce),
	}
}

// Start writes Events until ctx ends and stop was called. What was told before is lost.
func (r *Recorder) Start(ctx context.Context) (stop func(), err error) {
	return r.broadcaster.Shutdown, r.broadcaster.StartRecordingToSinkWithContext(ctx)
}

// What of an object's life Events tell.
const (
	ReasonLive    = "LiveOnAllNodes"
	ReasonLagging = "Lagging"
)

// versions are the API versions of the kinds that have Events.
var versions = map[string]string{
	convert.KindService: "v1", convert.KindPod: "v1", convert.KindNode: "v1", convert.KindNamespace: "v1",
	convert.KindEndpointSlice: "discovery.k8s.io/v1", convert.KindNetworkPolicy: "networking.k8s.io/v1",
	convert.KindClusterNetworkPolicy: convert.ClusterNetworkPolicies.GroupVersion().String(),
}

// Tell has an Event of an object written, if it is of a kind that has some. It doesn't wait. A nil Recorder tells nobody.
func (r *Recorder) Tell(object *schemas.ObjectRef, warning bool, reason, text string) {
	version := versions[object.GetKind()]
	if r == nil || version == "" {
		return
	}
	kind, budget := corev1.EventTypeNormal, r.normal
	if warning {
		kind, budget = corev1.EventTypeWarning, r.warnings
	}
	if !budget.TryAccept() {
		r.OnDropped()
		return
	}
	r.recorder.Eventf(&corev1.ObjectReference{
		APIVersion: version, Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(),
		UID: types.UID(object.GetUid()),
	}, nil, kind, reason, "Publish", "%s", note(text))
}

// note cuts a text to what an Event holds.
func note(text string) string {
	if len(text) <= maxNote {
		return text
	}
	return strings.ToValidUTF8(text[:maxNote-len("…")], "") + "…"
}

// Reason makes an Event's reason of the kind that an event on the bus has: "object_set_aside" is "ObjectSetAside".
func Reason(kind string) string {
	var reason strings.Builder
	for word := range strings.SplitSeq(kind, "_") {
		if word != "" {
			reason.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return reason.String()
}
