// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// api is an API server from before WatchList that has Namespaces and nothing else. The real one is in
// test/kubernetes; this one can be made to misbehave.
type api struct {
	t *testing.T

	mu      sync.Mutex
	names   []string
	version int
	stale   bool // someone was content with any version
	refuse  bool
	refused sync.WaitGroup // until a request was refused

	refusedOnce sync.Once

	events chan string // lines of the watch on Namespaces; closing ends the watch
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.refuse:
		a.refusedOnce.Do(a.refused.Done)
		http.Error(w, "away", http.StatusServiceUnavailable)
	case query.Get("sendInitialEvents") == "true":
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden"}`)
	case query.Get("watch") == "true":
		events := make(chan string)
		if strings.HasSuffix(r.URL.Path, "/namespaces") {
			events = a.events
		}
		a.mu.Unlock()
		defer a.mu.Lock()
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for {
			select {
			case line, more := <-events:
				if !more {
					return
				}
				fmt.Fprintln(w, line)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	case strings.HasSuffix(r.URL.Path, "/servicecidrs"):
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"ServiceCIDRList","apiVersion":"networking.k8s.io/v1","items":[{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/12"]}}]}`)
	case strings.Contains(r.URL.Path, "/configmaps/") || strings.Contains(r.URL.Path, "/policy.networking.k8s.io/"):
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"not found"}`)
	default:
		a.stale = a.stale || query.Get("resourceVersion") == "0"
		a.list(w, r)
	}
}

var listTypes = map[string]metav1.TypeMeta{
	"namespaces":      {Kind: "NamespaceList", APIVersion: "v1"},
	"nodes":           {Kind: "NodeList", APIVersion: "v1"},
	"services":        {Kind: "ServiceList", APIVersion: "v1"},
	"pods":            {Kind: "PodList", APIVersion: "v1"},
	"endpointslices":  {Kind: "EndpointSliceList", APIVersion: "discovery.k8s.io/v1"},
	"networkpolicies": {Kind: "NetworkPolicyList", APIVersion: "networking.k8s.io/v1"},
}

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	list := corev1.NamespaceList{TypeMeta: listTypes[resource], ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(a.version)}}
	if resource == "namespaces" {
		for _, name := range a.names {
			list.Items = append(list.Items, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"}})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		a.t.Error(err)
	}
}

// change sets what Namespaces there are, and ends the watch with a line.
func (a *api) change(names []string, last string) {
	a.mu.Lock()
	a.names, a.version = names, a.version+100
	a.mu.Unlock()
	a.say(last)
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.events)
	a.events = make(chan string)
}

func (a *api) say(line string) {
	a.mu.Lock()
	events := a.events
	a.mu.Unlock()
	select {
	case events <- line:
	case <-time.After(10 * time.Second):
		a.t.Fatal("nobody watches")
	}
}

// watching starts a source on an api with Namespaces, and returns what it emits of them, in words.
func watching(t *testing.T, names ...string) (*api, func(want string)) {
	t.Helper()
	a := &api{t: t, names: names, version: 1, events: make(chan string)}
	a.refused.Add(1)
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	source := sourceOf(t, server.URL)
	inputs, clusters := make(chan string, 64), make(chan string, 64)
	listed := sync.Map{}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context())) // Cleanup waits for what comes late
	done := make(chan error)
	go func() {
		done <- source.Run(ctx, nil, func(in core.Input) {
			if l, ok := in.(core.List); ok {
				listed.Store(l.Kinds[0], true)
			}
			switch said := words(in); {
			case strings.HasPrefix(said, "cluster"):
				clusters <- said
			case said != "":
				inputs <- said
			}
		})
	}()
	t.Cleanup(func() {
		for _, kind := range Kinds {
			testkit.Eventually(t, 20*time.Second, func() bool {
				_, ok := listed.Load(kind)
				return ok
			})
		}
		if got, want := <-clusters, "cluster 10.96.0.0/12 from ServiceCIDR kubernetes, spec.cidrs"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(clusters) > 0 {
			t.Errorf("what was found of the cluster was said again: %s", <-clusters)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.stale {
			t.Error("a list of any version was asked for: it may lack what STATE has")
		}
	})
	return a, func(want string) {
		t.Helper()
		select {
		case got := <-inputs:
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing came, want %q", want)
		}
	}
}

func sourceOf(t *testing.T, url string) *Source {
	t.Helper()
	config := &rest.Config{Host: url, QPS: -1}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	dynamics, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Source{Client: client, Dynamic: dynamics, Log: slog.New(slog.DiscardHandler)}
}

// words says what an input says about Namespaces.
func words(in core.Input) string {
	switch in := in.(type) {
	case core.List:
		if in.Kinds[0] != "Namespace" {
			return ""
		}
		var said strings.Builder
		said.WriteString("list")
		for _, fact := range in.Facts {
			said.WriteString(" " + fact.GetObject().GetName())
		}
		return said.String()
	case core.Upsert:
		if in.Fact.GetNamespace() != nil {
			return "put " + in.Fact.GetObject().GetName()
		}
		if c := in.Fact.GetCluster(); c != nil {
			return fmt.Sprint("cluster ", c.GetServiceCidrs()[0].GetValue(), " from ", c.GetServiceCidrs()[0].GetOrigin())
		}
	case core.Delete:
		return "delete " + in.Object.GetName()
	}
	return ""
}

const (
	added   = `{"type":"ADDED","object":{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"new","resourceVersion":"2"}}}`
	deleted = `{"type":"DELETED","object":{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"new","resourceVersion":"3"}}}`
	expired = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}}`
)

func TestListsAndWatchesBecomeInputs(t *testing.T) {
	a, expect := watching(t, "a", "b")
	expect("list a b")
	a.say(added)
	expect("put new")
	a.say(deleted)
	expect("delete new")
}

func TestAnExpiredWatchIsListedAgain(t *testing.T) {
	a, expect := watching(t, "a", "b")
	expect("list a b")
	a.change([]string{"b", "c"}, expired)
	expect("list b c")
	a.say(added)
	expect("put new")
}

func TestAnAPIServerThatIsAwayIsWaitedFor(t *testing.T) {
	a, expect := watching(t, "a")
	expect("list a")
	a.say(added) // so the watch stands
	expect("put new")
	a.mu.Lock()
	a.refuse = true
	a.mu.Unlock()
	a.change([]string{"a", "later"}, expired)
	a.refused.Wait()
	a.mu.Lock()
	a.refuse = false
	a.mu.Unlock()
	expect("list a later")
}
