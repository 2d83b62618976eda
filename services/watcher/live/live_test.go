// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func service(name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: name}
}

func said(news []News) (words []string) {
	for _, n := range news {
		words = append(words, fmt.Sprint(n.Object.GetName(), map[bool]string{true: " live: ", false: " lags: "}[n.Live], n.Text))
	}
	return words
}

func expect(t *testing.T, news []News, want ...string) {
	t.Helper()
	if got := said(news); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func asks(t *testing.T, w *Watch, want ...uint64) {
	t.Helper()
	if got := w.Questions(); !slices.Equal(got, want) {
		t.Errorf("asks about %v, want %v", got, want)
	}
}

// Promise P5: an object's Events say when it is live on every node, and who is behind if it isn't.
func TestAnObjectIsLiveOnceNoNodeLacksIt(t *testing.T) {
	w := &Watch{}
	asks(t, w)
	w.Published(now, service("cart"), 10)
	asks(t, w, 1)
	expect(t, w.Take(now, 1, &schemas.Status{Revision: 6, StateSequence: 9, NodesTotal: 3})) // not taken in yet
	expect(t, w.Take(now, 1, &schemas.Status{Revision: 7, StateSequence: 10, NodesTotal: 3}))
	asks(t, w, 1, 7)
	w.Published(now, service("db"), 11)
	expect(t, w.Take(now, 7, &schemas.Status{Revision: 8, StateSequence: 11, NodesTotal: 3, NodesLacking: 1}))
	asks(t, w, 1, 7, 8)
	expect(t, w.Take(now, 7, &schemas.Status{Revision: 8, StateSequence: 11, NodesTotal: 3, NodesLost: 1}),
		"cart live: In the kernel of all 2 nodes; 1 more are lost and not waited for")
	expect(t, w.Take(now, 8, &schemas.Status{Revision: 8, StateSequence: 11, NodesTotal: 3}), "db live: In the kernel of all 3 nodes")
	asks(t, w)
}

func TestAnObjectThatIsntLiveIsSaidToLagOnce(t *testing.T) {
	w := &Watch{}
	w.Published(now, service("cart"), 10)
	w.Published(now, service("db"), 20)
	later := now.Add(LagAfter)
	behind := &schemas.Status{Revision: 7, StateSequence: 15, NodesTotal: 9, NodesLacking: 7}
	for i := range 6 {
		behind.Nodes = append(behind.Nodes, &schemas.NodeStatus{Node: fmt.Sprint("n", i)})
	}
	behind.Nodes[0].Reason = "no report for 40 s"
	expect(t, w.Take(now, 1, behind))
	expect(t, w.Take(later, 7, behind),
		"cart lags: Not in the kernel of 7 of 9 nodes yet: n0 (no report for 40 s), n1, n2, n3, n4 and 2 more",
		"db lags: The compiler has not taken the object in yet: deltaplane status")
	expect(t, w.Take(later, 7, behind))
	expect(t, w.Take(later, 7, &schemas.Status{Revision: 7, StateSequence: 15, NodesTotal: 9}), "cart live: In the kernel of all 9 nodes")
}

func TestWhatIsFollowedIsBounded(t *testing.T) {
	w := &Watch{}
	for i := range 3 * most {
		w.Published(now, service(fmt.Sprint("s", i%(2*most))), uint64(i))
	}
	if len(w.waiting) != most {
		t.Errorf("%d objects are followed, want %d", len(w.waiting), most)
	}
	w.Published(now.Add(2*forgetAfter), service("last"), 1)
	if len(w.waiting) != 1 {
		t.Errorf("%d objects are followed after an age, want 1", len(w.waiting))
	}
}
