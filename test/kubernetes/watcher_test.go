// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// soon is how long a change may take to get from the API server to the bus on a busy machine, and while a new watcher
// waits for the Lease of one that is dead.
const soon = time.Minute

// watch starts a watcher with the rights of deploy/manifests.
func watch(t *testing.T, cluster *Cluster, bus *Bus, name string) *Process {
	t.Helper()
	return Run(t, "watcher", "--source=kubernetes", "--kubeconfig="+cluster.Kubeconfig(t, watcherToken),
		"--name="+name, "--bus="+bus.URL, "--listen=", "--log-level=debug")
}

// eventually waits until the facts are so, and says which there are if they never are.
func eventually(t *testing.T, bus *Bus, what string, so func(map[string]*schemas.Fact) bool) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("facts: %s", strings.Join(slices.Sorted(maps.Keys(bus.Facts())), ", "))
		}
	})
	t.Log("waiting for", what)
	testkit.Eventually(t, soon, func() bool { return so(bus.Facts()) })
}

func has(keys ...string) func(map[string]*schemas.Fact) bool {
	return func(facts map[string]*schemas.Fact) bool {
		return !slices.ContainsFunc(keys, func(k string) bool { return facts[k] == nil })
	}
}

// settled is when the watcher has told all of the shop, and what it found out about the cluster.
func settled(facts map[string]*schemas.Fact) bool {
	return has("Service shop/cart", "EndpointSlice shop/cart-1", "Complete /state", "Cluster /cluster")(facts)
}

func lacks(keys ...string) func(map[string]*schemas.Fact) bool {
	return func(facts map[string]*schemas.Fact) bool {
		return !slices.ContainsFunc(keys, func(k string) bool { return facts[k] != nil })
	}
}

func endpoints(n int) func(map[string]*schemas.Fact) bool {
	return func(facts map[string]*schemas.Fact) bool {
		return len(facts["EndpointSlice shop/cart-1"].GetEndpointSlice().GetEndpoints()) == n
	}
}

// shop is a cluster with a namespace, a Service and its EndpointSlice, and a bus.
func shop(t *testing.T) (*Cluster, *Bus) {
	t.Helper()
	cluster := NewCluster(t)
	cluster.Install(t)
	cluster.Namespace(t, "shop")
	cluster.Service(t, "shop", "cart")
	cluster.Slice(t, "shop", "cart", 2)
	return cluster, NewBus(t)
}

func TestWatcherPublishesObjectsAsTheyChange(t *testing.T) {
	cluster, bus := shop(t)
	watch(t, cluster, bus, "a")
	eventually(t, bus, "all objects and a complete list", has("Service shop/cart", "EndpointSlice shop/cart-1", "Namespace /shop", "Service default/kubernetes"))

	service, err := cluster.Client.CoreV1().Services("shop").Get(t.Context(), "cart", metav1.GetOptions{})
	fatal(t, err)
	fact := bus.Facts()["Service shop/cart"]
	if fact.GetObject().GetUid() != string(service.UID) || fact.GetObject().GetResourceVersion() != service.ResourceVersion {
		t.Errorf("the fact names uid %s at version %s, the object is %s at %s",
			fact.GetObject().GetUid(), fact.GetObject().GetResourceVersion(), service.UID, service.ResourceVersion)
	}

	cluster.Slice(t, "shop", "cart", 5)
	eventually(t, bus, "five endpoints", endpoints(5))
	fatal(t, cluster.Client.CoreV1().Services("shop").Delete(t.Context(), "cart", metav1.DeleteOptions{}))
	eventually(t, bus, "the Service is gone", lacks("Service shop/cart"))
}

// Status, managed fields and labels that decide nothing change all the time, and must cost nobody anything.
func TestWatcherPublishesNothingForChangesThatDecideNothing(t *testing.T) {
	cluster, bus := shop(t)
	watch(t, cluster, bus, "a")
	eventually(t, bus, "the Services and all that is told at the start", settled)
	before := bus.Told()

	services := cluster.Client.CoreV1().Services("shop")
	for i := range 20 {
		service, err := services.Get(t.Context(), "cart", metav1.GetOptions{})
		fatal(t, err)
		service.Annotations = map[string]string{"example.com/seen": fmt.Sprint(i)}
		_, err = services.Update(t.Context(), service, metav1.UpdateOptions{FieldManager: fmt.Sprint("manager-", i)})
		fatal(t, err)
	}
	cluster.Service(t, "shop", "after") // what comes after them has been seen, so they have been too
	eventually(t, bus, "the Service after them", has("Service shop/after"))
	if got := bus.Told() - before; got != 1 {
		t.Errorf("%d facts were published, want 1, for the Service that is new", got)
	}
}

// Fault 6: a real API server is away and comes back: nothing is deleted, and nothing published again.
func TestRestartOfTheAPIServerLosesNothing(t *testing.T) {
	cluster, bus := shop(t)
	watch(t, cluster, bus, "a")
	eventually(t, bus, "the Services and all that is told at the start", settled)
	before := bus.Told()

	cluster.Stop()
	cluster.Start(t)
	cluster.Service(t, "shop", "after")
	eventually(t, bus, "a Service made after the restart", has("Service shop/after", "Service shop/cart", "EndpointSlice shop/cart-1"))
	if got := bus.Told() - before; got != 1 {
		t.Errorf("%d facts were published, want 1: what a restart lists again is not new", got)
	}
}

// While the watcher can't see the API server objects go and come, and etcd forgets the versions between: watching
// on from the last version ends with 410 Gone, and only a list can tell what is gone.
//
// Fault 6: a real API server answers 410 Gone, and what came and went meanwhile is found by a list.
func TestRelistAfterCompactionLosesNothing(t *testing.T) {
	cluster, bus := shop(t)
	cluster.Service(t, "shop", "gone-soon")
	watcher := watch(t, cluster, bus, "a")
	eventually(t, bus, "the Services", has("Service shop/cart", "Service shop/gone-soon"))

	thaw := testkit.Freeze(t, watcher.command.Process)
	fatal(t, cluster.Client.CoreV1().Services("shop").Delete(t.Context(), "gone-soon", metav1.DeleteOptions{}))
	cluster.Service(t, "shop", "new")
	for n := range 50 {
		cluster.Slice(t, "shop", "cart", n)
	}
	cluster.Stop()
	cluster.Compact(t)
	cluster.Start(t)
	thaw()

	eventually(t, bus, "what came", has("Service shop/cart", "Service shop/new"))
	eventually(t, bus, "what went", lacks("Service shop/gone-soon"))
	eventually(t, bus, "the newest slice", endpoints(49))
	// Whether a watch was tried first, and refused, or a list was asked for at once is client-go's to decide.
	t.Logf("410 Gone was seen: %v", strings.Contains(watcher.Log(), "too old resource version"))
}

// An API server that comes back empty looks like one whose every object was deleted.
//
// Fault 6: an API server that has lost everything deletes nothing before somebody has approved it.
func TestEmptyListDeletesNothingUnasked(t *testing.T) {
	cluster, bus := shop(t)
	for i := range 20 {
		cluster.Service(t, "shop", fmt.Sprint("service-", i))
	}
	watch(t, cluster, bus, "a").Stop(t)
	first := watch(t, cluster, bus, "a")
	eventually(t, bus, "all Services", has("Service shop/service-19", "Service shop/service-0"))
	first.Stop(t)

	empty := NewCluster(t)
	empty.Install(t)
	watch(t, empty, bus, "a")
	eventually(t, bus, "the new API server's node-less Service, with its own uid", func(facts map[string]*schemas.Fact) bool {
		service, err := empty.Client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		fatal(t, err)
		return facts["Service default/kubernetes"].GetObject().GetUid() == string(service.UID)
	})
	if !has("Service shop/service-0", "Service shop/cart")(bus.Facts()) {
		t.Error("Services were deleted because an API server didn't know them; want that held until someone approves")
	}
}

func TestSecondWatcherTakesOverFromAFrozenOne(t *testing.T) {
	cluster, bus := shop(t)
	first := watch(t, cluster, bus, "a")
	eventually(t, bus, "the Service", has("Service shop/cart"))
	watch(t, cluster, bus, "b")

	thaw := testkit.Freeze(t, first.command.Process)
	cluster.Slice(t, "shop", "cart", 7)
	eventually(t, bus, "the second one's slice", endpoints(7))

	// The first one wakes up and believes for a moment that it still leads; what it publishes now would be old.
	thaw()
	cluster.Slice(t, "shop", "cart", 9)
	eventually(t, bus, "the newest slice", endpoints(9))
	cluster.Service(t, "shop", "after")
	eventually(t, bus, "a Service made after that, and the slice still at its newest", func(facts map[string]*schemas.Fact) bool {
		return has("Service shop/after")(facts) && endpoints(9)(facts)
	})
}

func TestSecondWatcherTakesOverFromAKilledOne(t *testing.T) {
	cluster, bus := shop(t)
	first := watch(t, cluster, bus, "a")
	eventually(t, bus, "the Services and all that is told at the start", settled)
	before := bus.Published()
	watch(t, cluster, bus, "b")
	first.Kill(t)
	cluster.Service(t, "shop", "after")
	eventually(t, bus, "a Service made while nobody led", has("Service shop/after"))
	// The new leader takes the epoch and says that its list is complete; no object is published again.
	for key, fact := range bus.Facts() {
		if strings.HasPrefix(key, "Service") && key != "Service shop/after" && fact == nil {
			t.Errorf("%s is gone", key)
		}
	}
	t.Logf("%d messages for the change of leader and one Service", bus.Published()-before)
}
