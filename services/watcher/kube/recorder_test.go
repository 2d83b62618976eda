// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/deltaplane/deltaplane/schemas"
)

// recording is a Recorder and what it writes to an API server.
func recording(t *testing.T) (r *Recorder, written chan *eventsv1.Event, dropped *int) {
	t.Helper()
	written, dropped = make(chan *eventsv1.Event, 256), new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		event := &eventsv1.Event{}
		if err := json.NewDecoder(r.Body).Decode(event); err != nil {
			t.Error(err)
		}
		if r.Method == http.MethodPost {
			written <- event
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(event) // the client may be gone
	}))
	t.Cleanup(server.Close)
	r = NewRecorder(kubernetes.NewForConfigOrDie(&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}), func() { *dropped++ })
	stop, err := r.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return r, written, dropped
}

func TestWhatIsToldOfAnObjectIsAnEventOfIt(t *testing.T) {
	r, written, _ := recording(t)
	policy := &schemas.ObjectRef{Kind: "NetworkPolicy", Namespace: "shop", Name: "web", Uid: "1-2"}
	r.Tell(policy, true, Reason("object_set_aside"), strings.Repeat("é", maxNote))
	select {
	case event := <-written:
		on := corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: "shop", Name: "web", UID: "1-2"}
		if event.Regarding != on || event.Namespace != "shop" || event.Type != "Warning" || event.Reason != "ObjectSetAside" ||
			len(event.Note) > maxNote || !strings.HasSuffix(event.Note, "é…") {
			t.Errorf("event: %+v", event)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no Event was written")
	}
}

func TestAFloodOfEventsIsNotWritten(t *testing.T) {
	r, _, dropped := recording(t)
	for range 3 * eventsAtOnce {
		r.Tell(&schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "web"}, false, ReasonLive, "In the kernel of all 3 nodes")
	}
	if *dropped < eventsAtOnce {
		t.Errorf("%d Events of %d were dropped", *dropped, 3*eventsAtOnce)
	}
	before := *dropped
	r.Tell(&schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "web"}, true, ReasonLagging, "what is wrong has a budget of its own")
	r.Tell(&schemas.ObjectRef{Kind: "Cluster", Name: "cluster"}, false, ReasonLive, "is no object of Kubernetes")
	(*Recorder)(nil).Tell(&schemas.ObjectRef{Kind: "Service"}, false, ReasonLive, "there is nobody to tell")
	if *dropped != before {
		t.Errorf("%d more were dropped", *dropped-before)
	}
}
