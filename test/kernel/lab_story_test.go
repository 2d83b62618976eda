// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	labfabric "github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// story is a lab whose every probe is also put to both engines of explain: their verdicts must be what the packets
// met, and whom the packets reached must be among their candidates.
type story struct {
	*lab.Lab
	world  *explain.World // of the objects as they are now; nil until asked
	kernel *explain.Kernel
}

// newStory lets the test run beside others with labs of their own: most of its time it waits.
func newStory(t *testing.T, name, yaml string) *story {
	t.Helper()
	t.Parallel()
	c := buildAll(t)
	l, err := lab.Up(t.Context(), decoded(t, yaml), lab.Options{
		Name: labName + "-" + name, Binaries: filepath.Dir(c.program), Agent: []string{c.program, "lab", "agent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &story{Lab: l}
	t.Cleanup(func() {
		if s.kernel != nil {
			s.kernel.Close()
		}
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Converged(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// change applies objects and returns when every node has what follows from them.
func (s *story) change(t *testing.T, yaml string) {
	t.Helper()
	s.world = nil
	if err := s.Apply(t.Context(), decoded(t, yaml)); err != nil {
		t.Fatal(err)
	}
}

// met says what a way led to: the pods that answered, or the outcome if none did, sorted and joined by spaces.
// Where an answer is expected it may take long.
func (s *story) met(t *testing.T, want string, family int, w way) string {
	t.Helper()
	// One of two backends is missed by 20 connections once in half a million times.
	count, timeout := []int{0, 4, 20, 40}[len(strings.Fields(want))], patience
	if want == "timeout" {
		count, timeout = 1, 300*time.Millisecond
	}
	request := lab.ProbeRequest{
		From: w.from, To: w.to, Via: w.via, Protocol: w.proto, Family: family, Count: count, Timeout: timeout,
	}
	report, err := s.Probe(t.Context(), request)
	if err != nil {
		t.Fatalf("%+v: %v", w, err)
	}
	met := map[string]bool{}
	for _, r := range report.Results {
		met[cmp.Or(r.Reached, string(r.Outcome))] = true
		if w.seen != "" && r.ClientAddress != w.seen {
			t.Errorf("%+v: the pod saw %s", w, r.ClientAddress)
		}
	}
	s.explained(t, family, w, report.Results)
	return strings.Join(slices.Sorted(maps.Keys(met)), " ")
}

// all asks in both families and wants the same in both.
func (s *story) all(t *testing.T, want string, w way) {
	t.Helper()
	for _, family := range []int{4, 6} {
		if got := s.met(t, want, family, w); got != want {
			t.Errorf("%+v over IPv%d: got %q, want %q", w, family, got, want)
		}
	}
}

var verdicts = map[agent.Outcome]string{agent.OK: "forward", agent.Refused: "reject", agent.Timeout: "drop"}

// explained holds both engines to what was met.
func (s *story) explained(t *testing.T, family int, w way, results []agent.Result) {
	t.Helper()
	s.know(t)
	target, err := s.Resolve(w.to, family)
	if err != nil {
		t.Fatal(err)
	}
	q := explain.Question{From: w.from, To: target.String(), Proto: w.proto}
	if w.from == "outside" {
		q.From, q.Node = labfabric.OutsideAddrs[family/6].String(), s.firstNode(w, target.Addr())
	}
	for name, engine := range map[string]explain.Engine{"model": explain.Model{}, "kernel": s.kernel} {
		answer, err := s.world.Ask(engine, q)
		if err != nil {
			t.Errorf("%+v: the %s engine says %v", q, name, err)
			continue
		}
		for _, r := range results {
			if answer.Verdict != verdicts[r.Outcome] || r.Outcome == agent.OK && !s.among(r.Reached, answer.Candidates) {
				t.Errorf("%+v: packets met %+v, the %s engine says %s of %v (%s)", q, r, name, answer.Verdict, answer.Candidates, answer.Reason)
				break
			}
		}
	}
}

// know compiles the objects as they are published now.
func (s *story) know(t *testing.T) {
	t.Helper()
	if s.world != nil {
		return
	}
	cluster := s.Cluster()
	facts := []*schemas.Fact{convert.Cluster(cluster.ServiceCIDRs)}
	for object := range cluster.Watched() {
		fact, err := convert.Fact(object)
		if err != nil {
			t.Fatal(err)
		}
		facts = append(facts, fact)
	}
	world, warnings, err := explain.FromFacts(facts, explain.Config{})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if s.kernel == nil { // loaded once, and filled anew for each world
		s.kernel, err = explain.NewKernel(world)
		if err != nil {
			t.Fatal(err)
		}
	}
	s.world = world
}

// firstNode is the one that sees an outside client's packets first.
func (s *story) firstNode(w way, target netip.Addr) string {
	for _, node := range s.Cluster().Nodes {
		if slices.Contains(manifest.NodeAddrs(node), target) {
			return node.Name
		}
	}
	return strings.TrimPrefix(cmp.Or(w.via, "node/node-1"), "node/")
}

// among says whether one of the candidates has an address of the pod.
func (s *story) among(name string, candidates []string) bool {
	for _, pod := range s.Cluster().Pods {
		if manifest.Name(pod) != name {
			continue
		}
		return slices.ContainsFunc(candidates, func(c string) bool {
			at, err := netip.ParseAddrPort(c)
			return err == nil && slices.Contains(manifest.PodAddrs(pod), at.Addr())
		})
	}
	return false
}
