// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/prototext"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel/policy"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// Policy row 1: whatever policies there are, the rows that the compiler makes of them decide as the policies say, by the
// same rule.
// Policy row 5: the same of tiers.
func TestCompiledRowsDecideAsTheObjectsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawing{t, rapid.IntRange(1, 3).Draw(t, "nodes"), rapid.IntRange(1, 7).Draw(t, "pods")}
		facts := d.cluster()
		w, _, err := FromFacts(facts, Config{})
		if err != nil {
			t.Fatal(err)
		}
		w.policies = policy.New(facts, nil) // without what the compiler says of them
		all := everyAddress(facts)
		for _, from := range all {
			for _, to := range all {
				if from.Is4() != to.Is4() {
					continue
				}
				for _, conn := range connectTo(from, to) {
					checkEnds(t, w, facts, conn)
				}
			}
		}
	})
}

func checkEnds(t *rapid.T, w *World, facts []*schemas.Fact, e end) {
	for _, e.direction = range []model.Direction{model.Egress, model.Ingress} {
		said := w.objects(e)
		if said == nil {
			continue
		}
		e.node = said.Node
		_, rows := w.layers(e.node)
		action, rule := byRows(w.node(e.node), rows, e)
		if action == said.Action && sameRule(rule, said.Rule) {
			continue
		}
		t.Fatalf("%s of %s on %s, %s → %s/%s: the objects say %s by %v, the rows %s by %v\n%s", e.direction, said.Pod, e.node,
			e.source.Addr(), e.target, e.protocol, said.Action, said.Rule, action, rule, written(facts))
	}
}

// sameRule compares all but the id, which only rows have.
func sameRule(row, rule *model.Rule) bool {
	if row == nil || rule == nil {
		return row == rule
	}
	copied := *rule
	copied.ID = row.ID
	return copied == *row
}

// written is the objects that matter, to be read.
func written(facts []*schemas.Fact) string {
	var b strings.Builder
	for _, fact := range facts {
		b.WriteString(prototext.MarshalOptions{}.Format(fact) + "\n")
	}
	return b.String()
}

// The programs, with the rows that the compiler makes of random policies, answer as the model does.
func TestEnginesAgreeOnRandomPolicies(t *testing.T) {
	testkit.NeedKernel(t)
	kernel, err := NewKernel(policed(t))
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	asked := 0
	rapid.Check(t, func(t *rapid.T) {
		d := drawing{t, rapid.IntRange(1, 2).Draw(t, "nodes"), rapid.IntRange(2, 5).Draw(t, "pods")}
		facts := append(d.cluster(), serviceFact("shop", "all", 80, model.TCP, "10.96.0.1"), backends("shop", "all", "10.0.1.1", "n0", "10.0.1.2", "n0", "10.0.2.2", "n1"))
		w, _, err := FromFacts(facts, Config{})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range d.questions(facts) {
			model, err := w.Ask(Model{}, q)
			if err != nil {
				continue // such as a pod without an address of the family
			}
			asked++
			got, err := w.Ask(kernel, q)
			if err != nil {
				t.Fatalf("%+v: %v\n%s", q, err, written(facts))
			}
			if diff := cmp.Diff(model, got, cmpopts.IgnoreFields(Answer{}, "Steps", "Evidence")); diff != "" {
				t.Fatalf("%+v (-model +kernel):\n%s\n%s\n%s", q, diff, strings.Join(got.Steps, "\n"), written(facts))
			}
		}
	})
	t.Logf("%d questions", asked)
}

// questions draws some about addresses of the cluster, and a Service.
func (d drawing) questions(facts []*schemas.Fact) (all []Question) {
	ends := everyAddress(facts)
	for range 20 {
		q := Question{From: of(d, "from", ends...).String(), Proto: of(d, "proto", "tcp", "udp", "sctp"), Via: of(d, "via", "", "packet")}
		q.To = netip.AddrPortFrom(of(d, "to", ends...), uint16(of(d, "port", somePorts...))).String()
		if d.often("service", 3) {
			q.To, q.Proto = "10.96.0.1:80", "tcp"
		}
		if slices.Contains(someOutside, q.From) {
			q.Node = "n0"
		}
		all = append(all, q)
	}
	return all
}
