// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

func leaseOf(node string, renewed time.Time, seconds int32) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}, LeaseDurationSeconds: &seconds},
	}
}

// kubelets are nodes that renew their Leases, and what a watcher makes of it. Their clocks are an hour behind.
type kubelets struct {
	t      *testing.T
	leases *leases
	now    time.Time
	said   []string
}

func newKubelets(t *testing.T, lost map[string]bool, nodes ...string) *kubelets {
	t.Helper()
	k := &kubelets{t: t, leases: newLeases(lost), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	k.renew(nodes...)
	k.expect("")
	return k
}

func (k *kubelets) renew(nodes ...string) {
	for _, node := range nodes {
		for _, changed := range k.leases.see(k.now, leaseOf(node, k.now.Add(-time.Hour), 40)) {
			k.said = append(k.said, fmt.Sprint(changed, map[bool]string{true: " lost", false: " heard"}[k.leases.lost(changed)]))
		}
	}
}

// run lets seconds pass while some nodes renew every 10 s.
func (k *kubelets) run(seconds int, nodes ...string) {
	for s := range seconds {
		k.now = k.now.Add(time.Second)
		if s%10 == 9 {
			k.renew(nodes...)
		}
	}
}

func (k *kubelets) expect(want ...string) {
	k.t.Helper()
	if want[0] == "" {
		want = nil
	}
	if !slices.Equal(k.said, want) {
		k.t.Errorf("said %q, want %q", k.said, want)
	}
	k.said = nil
}

// Promise P5: a node that is gone is known to be, and nobody waits for it.
func TestANodeThatRenewsItsLeaseNoLongerIsLost(t *testing.T) {
	k := newKubelets(t, nil, "a", "b", "c")
	k.run(300, "a", "b", "c")
	k.expect("")
	k.run(40, "a", "b")
	k.expect("")
	k.run(10, "a", "b")
	k.expect("c lost")
	k.run(300, "a", "b")
	k.expect("")
	k.run(10, "a", "b", "c")
	k.expect("c heard")
	k.run(300, "a", "b", "c")
	k.expect("")
}

// Fault 6: an API server, or its etcd, that is away loses no node, however long, and none after it is back.
func TestSilenceOfAllLosesNoNode(t *testing.T) {
	k := newKubelets(t, nil, "a", "b", "c")
	k.run(100, "a", "b", "c")
	for range 5 {
		k.run(3600)
		k.run(20, "a") // the first one to be back
		k.run(20, "a", "b", "c")
	}
	k.expect("")
	k.run(3600)
	k.run(60, "a", "b")
	k.expect("c lost")
}

// A watcher that begins knows nothing of how long a node has been silent, only what STATE says.
func TestANodeThatWasLostStaysLostUntilItIsHeard(t *testing.T) {
	k := newKubelets(t, map[string]bool{"c": true, "d": true}, "a", "b", "c")
	k.run(100, "a", "b")
	if !k.leases.lost("c") || k.leases.lost("a") {
		t.Errorf("lost: %v", k.leases.nodes)
	}
	k.expect("")
	k.run(10, "a", "c")
	k.expect("c heard")
}

func TestALeaseHasItsOwnDuration(t *testing.T) {
	k := newKubelets(t, nil, "a")
	slow := leaseOf("slow", k.now, 200)
	k.leases.see(k.now, slow)
	k.run(200, "a")
	k.expect("")
	k.run(20, "a")
	k.expect("slow lost")
	if !k.leases.remove("slow") || k.leases.lost("slow") {
		t.Error("a node without a Lease is lost")
	}
}

func TestOnlyTransitionsOfNodesAreEmitted(t *testing.T) {
	var said []string
	n := newNodes(map[string]bool{"b": true, "gone": true}, slog.New(slog.DiscardHandler), func(in core.Input) {
		facts := []string{fmt.Sprintf("%T", in)}
		switch in := in.(type) {
		case core.List:
			for _, fact := range in.Facts {
				facts = append(facts, fmt.Sprint(fact.GetObject().GetName(), fact.GetNode().GetLost()))
			}
		case core.Upsert:
			facts = append(facts, fmt.Sprint(in.Fact.GetObject().GetName(), in.Fact.GetNode().GetLost()))
		}
		said = append(said, fmt.Sprint(facts))
	})
	node := func(name string) core.Upsert {
		return trimmed(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}).input.(core.Upsert)
	}
	expect := func(want ...string) {
		t.Helper()
		if !slices.Equal(said, want) {
			t.Errorf("said %q, want %q", said, want)
		}
		said = nil
	}
	n.see(core.List{Kinds: []string{"Node"}, Facts: []*schemas.Fact{node("a").Fact, node("b").Fact, node("gone").Fact}})
	expect("[core.List afalse btrue gonetrue]")
	begun := time.Now()
	if err := n.Replace([]any{leaseOf("a", begun, 40), leaseOf("b", begun, 40)}, "7"); err != nil {
		t.Fatal(err)
	}
	expect("[core.Upsert gonefalse]") // it has no Lease
	n.see(node("b"))
	expect("[core.Upsert btrue]")
	for i := range 3 {
		if err := n.Update(leaseOf("a", begun.Add(time.Duration(i)), 40)); err != nil {
			t.Fatal(err)
		}
	}
	expect()
	if err := n.Update(leaseOf("b", begun.Add(1), 40)); err != nil {
		t.Fatal(err)
	}
	expect("[core.Upsert bfalse]")
	n.see(core.Delete{Object: node("a").Fact.GetObject()})
	if err := n.Delete(leaseOf("a", begun, 40)); err != nil {
		t.Fatal(err)
	}
	expect("[core.Delete]")
}

// BenchmarkLeases is what one renewal costs of 5,000 nodes' 500 a second.
func BenchmarkLeases(b *testing.B) {
	l, now := newLeases(nil), time.Now()
	for i := 0; b.Loop(); i++ {
		now = now.Add(2 * time.Millisecond)
		l.see(now, leaseOf(fmt.Sprint("node-", i%5000), now, 40))
	}
}
