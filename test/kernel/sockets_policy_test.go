// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// policies is a fabric with a Service of three backends.
type policies struct {
	*fabric
	*book
	names []string
}

func newPolicies(t testing.TB) policies {
	t.Helper()
	f := newPodNode(t)
	p := policies{fabric: f, book: newBook(t, f.plane)}
	for i, port := range []string{"8081", "8082", "8083"} {
		p.names = append(p.names, backend4+":"+port)
		serve(t, f.backend, p.names[i])
	}
	p.root(1, model.TCP, model.IPv4, p.names...)
	p.front(1, model.FrontendClusterIP, 0, service4)
	return p
}

// reached dials many times and returns who answered, sorted.
func (p policies) reached(t testing.TB, from *testkit.NetNS) []string {
	t.Helper()
	p.write(t)
	seen := map[string]bool{}
	for range 40 {
		who, err := reach(t, from, "tcp4", service4)
		check(t, err)
		seen[who] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func (p policies) want(t testing.TB, what string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, p.reached(t, p.client)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (p policies) flags(flags model.SetFlags) {
	s := p.cluster.Sets[1]
	s.Flags = flags
	p.cluster.Sets[1] = s
}

// Row 9: internalTrafficPolicy Local comes before hints.
// Row 10: hints count if all ready backends have them and one fits: those for the node, then those for its zone,
// else all.
func TestSocketsKeepToLocalBackendsAndHints(t *testing.T) {
	p := newPolicies(t)
	a, b, c := p.names[0], p.names[1], p.names[2]
	p.want(t, "no policy", a, b, c)

	p.part(2, 1, model.ScopeZone, "west", a, b)
	p.part(3, 1, model.ScopeNode, "", a)
	p.want(t, "hints that not all backends have", a, b, c)
	p.flags(model.ZoneHints)
	p.want(t, "a node that knows no zone", a, b, c)
	self := model.Self{Zone: "west"}
	p.book.node.Selves[self.Key()] = self
	p.want(t, "hints for the zone", a, b)
	p.flags(model.ZoneHints | model.NodeHints)
	p.want(t, "hints for the node", a)
	p.flags(model.ZoneHints | model.NodeHints | model.Fallback)
	p.want(t, "hints of a Service that has no ready backend", a, b, c)

	p.flags(model.ZoneHints | model.NodeHints)
	p.front(1, model.FrontendClusterIP, model.InternalLocal, service4)
	p.part(4, 1, model.ScopeLocal, "", c)
	p.want(t, "policy Local, whatever the hints", c)
	p.front(1, model.FrontendClusterIP, model.ExternalLocal, service4)
	p.want(t, "external policy Local, from a pod", a)
}

// Row 11: each pod keeps a backend of its own; the time begins anew with each connection, and a backend that
// terminates or goes is left.
// Trap 46: affinity to a backend that terminates or goes is forgotten.
func TestSocketsOfANamespaceKeepTheirBackend(t *testing.T) {
	p := newPolicies(t)
	withAffinity := func(seconds uint32) {
		s := p.cluster.Sets[1]
		s.Affinity = seconds
		p.cluster.Sets[1] = s
	}
	withAffinity(3600)
	first := p.reached(t, p.client)
	if len(first) != 1 {
		t.Fatalf("with affinity %v are reached", first)
	}
	// Others have affinities of their own: some of many namespaces get another backend.
	seen := map[string]bool{}
	for range 12 {
		ns := testkit.NewNetNS(t)
		p.join(t, ns, "other", "10.1.7.2", "fd00:1:7::2")
		got := p.reached(t, ns)
		if len(got) != 1 {
			t.Fatalf("another namespace reaches %v", got)
		}
		seen[got[0]] = true
		p.leave(t, "other")
	}
	if len(seen) < 2 {
		t.Errorf("12 namespaces all reach %v", seen)
	}
	// It slides: dialled again and again it lasts longer than its time.
	for range 3 {
		check(t, p.kernel.PassTime(2400))
		p.want(t, "within the time", first...)
	}
	check(t, p.kernel.PassTime(3601))
	for range 50 { // a third of them is the same by chance
		if p.reached(t, p.client)[0] != first[0] {
			break
		}
		check(t, p.kernel.PassTime(3601))
	}
	now := p.reached(t, p.client)
	if now[0] == first[0] {
		t.Errorf("50 times after the time %v was reached again", now)
	}
	// Not to a backend that terminates, while one is ready.
	index := slices.Index(p.names, now[0])
	id := model.BackendID(100 + index)
	p.terminate(id, 1, false)
	if got := p.reached(t, p.client); len(got) != 1 || got[0] == now[0] {
		t.Errorf("while %v terminates %v are reached", now, got)
	}
	// Nor to one that is gone.
	now = p.reached(t, p.client)
	p.remove(model.BackendID(100+slices.Index(p.names, now[0])), 1)
	if got := p.reached(t, p.client); len(got) != 1 || got[0] == now[0] {
		t.Errorf("when %v is gone %v are reached", now, got)
	}
}

// Row 4: sockets reach terminating backends only when none is ready, and only those that serve.
func TestSocketsReachTerminatingBackendsOnlyWhenNoneIsReady(t *testing.T) {
	p := newPolicies(t)
	a, b, c := p.names[0], p.names[1], p.names[2]
	p.terminate(100, 1, false)
	p.want(t, "one terminates", b, c)
	p.terminate(100, 1, true)
	p.terminate(101, 1, true)
	p.terminate(102, 1, true)
	p.want(t, "all terminate, and serve", a, b, c)
	for id := range model.BackendID(3) {
		p.terminate(100+id, 1, false)
	}
	p.write(t)
	wantRefused(t, p.client, "tcp4", service4, syscall.ECONNREFUSED)
}
