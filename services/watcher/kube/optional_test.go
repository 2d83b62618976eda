// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// crd is an API server that serves ClusterNetworkPolicies if it has been given the CustomResourceDefinition.
type crd struct {
	mu       sync.Mutex
	served   bool
	starting bool          // it doesn't know yet what it serves
	other    chan struct{} // not nil: it serves another version alone; gets one for each question about that
	gone     chan struct{} // closed with the CustomResourceDefinition
}

func (c *crd) set(served, starting bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.served && !served {
		close(c.gone)
	}
	if !c.served && served {
		c.gone = make(chan struct{})
	}
	c.served, c.starting = served, starting
}

func (c *crd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	served, starting, other, gone := c.served, c.starting, c.other, c.gone
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	switch {
	case starting:
		w.WriteHeader(http.StatusServiceUnavailable)
	case other != nil && r.URL.Path == "/apis/policy.networking.k8s.io":
		fmt.Fprint(w, `{"kind":"APIGroup","apiVersion":"v1","name":"policy.networking.k8s.io","versions":[{"groupVersion":"policy.networking.k8s.io/v1","version":"v1"}]}`)
	case other != nil && r.URL.Path == "/apis/policy.networking.k8s.io/v1":
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"policy.networking.k8s.io/v1","resources":[{"name":"clusternetworkpolicies","kind":"ClusterNetworkPolicy"}]}`)
		select {
		case other <- struct{}{}:
		default:
		}
	case strings.HasSuffix(r.URL.Path, "/namespaces"):
		fmt.Fprint(w, `{"kind":"NamespaceList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}`)
	case !served:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	case !strings.HasSuffix(r.URL.Path, "/clusternetworkpolicies"):
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"policy.networking.k8s.io/v1alpha2","resources":[{"name":"clusternetworkpolicies","kind":"ClusterNetworkPolicy"}]}`)
	case query.Get("sendInitialEvents") == "true":
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
	case query.Get("watch") == "true":
		fmt.Fprintln(w, `{"type":"ADDED","object":`+clusterPolicy("b")+`}`)
		w.(http.Flusher).Flush()
		select {
		case <-gone:
		case <-r.Context().Done():
		}
	default:
		fmt.Fprint(w, `{"kind":"ClusterNetworkPolicyList","apiVersion":"policy.networking.k8s.io/v1alpha2","metadata":{"resourceVersion":"1"},"items":[`+clusterPolicy("a")+`]}`)
	}
}

func clusterPolicy(name string) string {
	return `{"kind":"ClusterNetworkPolicy","apiVersion":"policy.networking.k8s.io/v1alpha2","metadata":{"name":"` + name +
		`","resourceVersion":"2"},"spec":{"tier":"Admin","priority":1,"subject":{"namespaces":{}}}}`
}

// Policy row 5: ClusterNetworkPolicies are picked up when the cluster gets to know them, and go with their definition.
func TestAKindThatComesAndGoes(t *testing.T) {
	server := &crd{starting: true}
	listen := httptest.NewServer(server)
	defer listen.Close()
	source := sourceOf(t, listen.URL)
	source.lookForEvery = time.Millisecond
	inputs := make(chan string, 64)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		source.optional(ctx, source.clusterNetworkPolicies(), func(in core.Input) {
			select {
			case inputs <- policyWords(in):
			case <-ctx.Done():
			}
		})
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()
	until := func(want string, passing ...string) {
		t.Helper()
		for {
			select {
			case got := <-inputs:
				if got == want {
					return
				}
				if !slices.Contains(passing, got) {
					t.Fatalf("got %q, want %q", got, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("nothing came, want %q", want)
			}
		}
	}
	server.set(false, false)
	until("list:") // only now: a server that starts has said nothing yet
	server.set(true, false)
	until("list: a")
	until("put b")
	// Objects that are there in another version alone are not gone.
	asked := make(chan struct{})
	server.mu.Lock()
	server.other = asked
	server.mu.Unlock()
	server.set(false, false)
	<-asked
	<-asked
	server.mu.Lock()
	server.other = nil
	server.mu.Unlock()
	server.set(true, false)
	until("list: a", "put b")
	server.set(false, false)
	until("list:", "list: a", "put b")
	server.set(true, false)
	until("list: a")
}

func policyWords(in core.Input) string {
	switch in := in.(type) {
	case core.List:
		var said strings.Builder
		said.WriteString("list:")
		for _, fact := range in.Facts {
			said.WriteString(" " + fact.GetObject().GetName())
		}
		return said.String()
	case core.Upsert:
		return "put " + in.Fact.GetObject().GetName()
	}
	return fmt.Sprintf("%T", in)
}
