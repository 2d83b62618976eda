// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// warm starts a watcher beside one that leads, and waits until it could take over.
func warm(t *testing.T, cluster *Cluster, bus *Bus, name string) *Process {
	t.Helper()
	p := watch(t, cluster, bus, name)
	testkit.Eventually(t, soon, func() bool { return strings.Contains(p.Log(), "warm: STATE and the source are known") })
	return p
}

// setPort changes the Service's port and returns the version that it has then.
func (c *Cluster) setPort(t *testing.T, port int32) string {
	t.Helper()
	services := c.Client.CoreV1().Services("shop")
	service, err := services.Get(t.Context(), "cart", metav1.GetOptions{})
	fatal(t, err)
	service.Spec.Ports[0].Port = port
	service, err = services.Update(t.Context(), service, metav1.UpdateOptions{})
	fatal(t, err)
	return service.ResourceVersion
}

func port(n uint32) func(map[string]*schemas.Fact) bool {
	return func(facts map[string]*schemas.Fact) bool {
		return facts["Service shop/cart"].GetService().GetPorts()[0].GetPort() == n
	}
}

// Fault 2: whichever leader is killed or frozen, and thaws later, the other publishes what changes, and each change once.
func TestWatchersTakeTurnsWhileObjectsChange(t *testing.T) {
	cluster, bus := shop(t)
	first := watch(t, cluster, bus, "a")
	eventually(t, bus, "all that is told at the start", settled)
	second := warm(t, cluster, bus, "b")

	before := bus.Published()
	thaw := testkit.Freeze(t, first.command.Process)
	begun := time.Now()
	cluster.setPort(t, 81)
	eventually(t, bus, "port 81", port(81))
	t.Logf("taken over from a frozen one, and published, after %v", time.Since(begun))
	thaw()
	cluster.setPort(t, 82)
	eventually(t, bus, "port 82", port(82))
	testkit.Eventually(t, soon, func() bool { return strings.Count(first.Log(), "warm: STATE and the source are known") == 2 })

	second.Kill(t)
	begun = time.Now()
	cluster.setPort(t, 83)
	eventually(t, bus, "port 83", port(83))
	t.Logf("taken over from a killed one, and published, after %v", time.Since(begun))
	// Two epochs, each with its word that STATE is complete, and three changes.
	if got := bus.Published() - before; got != 2*2+3 {
		t.Errorf("%d messages were published, want 7", got)
	}
}

// Promise P4: an orderly stop of the leader costs nobody anything but that the other one says so.
func TestAWatcherThatStopsHandsOver(t *testing.T) {
	cluster, bus := shop(t)
	first := watch(t, cluster, bus, "a")
	eventually(t, bus, "all that is told at the start", settled)
	warm(t, cluster, bus, "b")
	before := bus.Published()
	begun := time.Now()
	first.Stop(t)
	testkit.Eventually(t, soon, func() bool { return bus.Published() == before+2 }) // an epoch, and that STATE is complete
	t.Logf("handed over after %v", time.Since(begun))
	cluster.Service(t, "shop", "after")
	eventually(t, bus, "a Service made after that", has("Service shop/after"))
	if got := bus.Published() - before; got != 3 {
		t.Errorf("%d messages, want 3", got)
	}
}

// seen asks how far STATE must be read to have an object.
func (b *Bus) seen(t *testing.T, kind, namespace, name string) *schemas.SeenReply {
	t.Helper()
	request, err := proto.Marshal(&schemas.SeenRequest{Object: &schemas.ObjectRef{Kind: kind, Namespace: namespace, Name: name}})
	fatal(t, err)
	data, err := b.conn.Request(t.Context(), schemas.SubjectSeen, request)
	fatal(t, err)
	reply := &schemas.SeenReply{}
	fatal(t, proto.Unmarshal(data, reply))
	return reply
}

// read waits until the test has read STATE up to a message.
func (b *Bus) read(t *testing.T, sequence uint64) {
	t.Helper()
	testkit.Eventually(t, soon, func() bool { return b.Published() >= sequence })
}

func TestABarrierIsBehindWhatTheAPIServerHas(t *testing.T) {
	cluster, bus := shop(t)
	watch(t, cluster, bus, "a")
	eventually(t, bus, "all that is told at the start", settled)
	for p := range int32(20) {
		version := cluster.setPort(t, 1000+p)
		reply := bus.seen(t, "Service", "shop", "cart")
		bus.read(t, reply.GetStateSequence())
		if !port(1000+uint32(p))(bus.Facts()) || reply.GetResourceVersion() != version || reply.GetRefused() != "" {
			t.Fatalf("the reply is %v, STATE says %v; want port %d at version %s", reply, bus.Facts()["Service shop/cart"], 1000+p, version)
		}
	}
	cluster.Service(t, "shop", "short-lived")
	fatal(t, cluster.Client.CoreV1().Services("shop").Delete(t.Context(), "short-lived", metav1.DeleteOptions{}))
	gone := bus.seen(t, "Service", "shop", "short-lived")
	bus.read(t, gone.GetStateSequence())
	if !lacks("Service shop/short-lived")(bus.Facts()) || gone.GetRefused() != "" {
		t.Errorf("of what is gone: %v", gone)
	}
	if got := bus.seen(t, "Service", "shop", "never"); !got.GetUnknown() || got.GetRefused() != "" {
		t.Errorf("of what never was: %v", got)
	}
	if got := bus.seen(t, "ClusterNetworkPolicy", "", "never"); !got.GetUnknown() || got.GetRefused() != "" {
		t.Errorf("of what can't be: %v", got)
	}
	if got := bus.seen(t, "Secret", "shop", "key"); !strings.HasPrefix(got.GetRefused(), "Secret is no kind that deltaplane watches") {
		t.Errorf("of a kind that isn't watched: %v", got)
	}
}

// renew renews a Node's Lease of three seconds, as its kubelet would.
func (c *Cluster) renew(ctx context.Context, node string) error {
	leases := c.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	now.Time = now.Add(-time.Hour) // nobody's clock is to be believed
	spec := coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: new(int32(3)), RenewTime: &now}
	lease, err := leases.Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: spec}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec = spec
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// Promise P5: a node whose kubelet is gone is said to be lost, once, and to be there again, once.
func TestNodesThatRenewNoLeaseAreLost(t *testing.T) {
	cluster, bus := shop(t)
	_, err := cluster.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for _, name := range []string{"alive", "dead", "without"} {
		_, err := cluster.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		fatal(t, err)
	}
	fatal(t, cluster.renew(t.Context(), "dead"))
	ctx, stop := context.WithCancel(t.Context())
	var kubelet sync.WaitGroup
	kubelet.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_ = cluster.renew(ctx, "alive") // the API server is restarted meanwhile
			<-tick.C
		}
	})
	defer kubelet.Wait()
	defer stop()
	watch(t, cluster, bus, "a")
	lost := func(want string) func(map[string]*schemas.Fact) bool {
		return func(facts map[string]*schemas.Fact) bool {
			var got string
			for _, name := range []string{"alive", "dead", "without"} {
				if facts["Node /"+name].GetNode().GetLost() {
					got += name
				}
			}
			return got == want && has("Node /alive", "Node /dead", "Complete /state")(facts)
		}
	}
	eventually(t, bus, "all nodes", lost(""))
	eventually(t, bus, "the dead one to be lost", lost("dead"))
	before := bus.Told()
	cluster.Stop()
	cluster.Start(t)
	cluster.Service(t, "shop", "after")
	eventually(t, bus, "a Service made after a restart of the API server", has("Service shop/after"))
	if got := bus.Told() - before; got != 1 || !lost("dead")(bus.Facts()) {
		t.Errorf("%d messages since the node was lost, want that of the Service alone", got)
	}
	fatal(t, cluster.renew(t.Context(), "dead"))
	eventually(t, bus, "the dead one to be there again", lost(""))
}

// People find in kubectl describe what became of what they have applied.
func TestEventsTellWhatBecameOfObjects(t *testing.T) {
	cluster, b := shop(t)
	status, err := b.conn.Respond(schemas.SubjectStatus, "", func(_ context.Context, _ []byte, reply func([]byte) error) {
		data, err := proto.Marshal(&schemas.Status{Revision: 7, StateSequence: b.Published(), StateEpoch: 1, NodesTotal: 3})
		if err == nil {
			err = reply(data)
		}
		if err != nil {
			t.Error(err)
		}
	})
	fatal(t, err)
	t.Cleanup(status.Stop)
	watch(t, cluster, b, "a")
	eventually(t, b, "all that is told at the start", settled)
	cluster.setPort(t, 81)
	expect := func(of, kind, reason, text string) {
		t.Helper()
		t.Log("waiting for", reason, "of", of)
		testkit.Eventually(t, soon, func() bool {
			list, err := cluster.Client.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{})
			fatal(t, err)
			for _, e := range list.Items {
				if e.Regarding.Name == of && e.Type == kind && e.Reason == reason && strings.Contains(e.Note, text) {
					return e.ReportingController == "deltaplane-watcher"
				}
			}
			return false
		})
	}
	expect("cart", corev1.EventTypeNormal, "LiveOnAllNodes", "In the kernel of all 3 nodes")

	said, err := proto.Marshal(&schemas.Event{
		Severity: schemas.Severity_SEVERITY_WARNING, Service: "compiler", Kind: "object_set_aside", Text: "its second port is odd",
		Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "cart"},
	})
	fatal(t, err)
	fatal(t, b.conn.Publish(schemas.EventSubject("compiler", ""), said))
	expect("cart", corev1.EventTypeWarning, "ObjectSetAside", "its second port is odd")
}
