// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
)

// labelledPod is a pod with a label.
func labelledPod(name, node, addr, app string) *schemas.Fact {
	f := podFact(name, node, addr)
	f.GetPod().Labels = map[string]string{"app": app}
	return f
}

func selecting(app string) *schemas.Selector {
	return &schemas.Selector{Terms: []*schemas.SelectorTerm{
		{Key: "app", Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_IN, Values: []string{app}},
	}}
}

// ingressPolicy lets some pods reach others on a port, and a block on all.
func ingressPolicy(name, to, from string, port uint32, block string, now time.Time) *schemas.Fact {
	accept := schemas.RuleAction_RULE_ACTION_ACCEPT
	rules := []*schemas.PolicyRule{{
		Action: accept, Peers: []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{Pods: selecting(from)}}}},
		Ports: []*schemas.PolicyPort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: port}},
	}}
	if block != "" {
		rules = append(rules, &schemas.PolicyRule{
			Action: accept, AnyPort: true,
			Peers: []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{Cidr: block}}}},
		})
	}
	return &schemas.Fact{
		Object:      &schemas.ObjectRef{Kind: "NetworkPolicy", Namespace: "shop", Name: name, Uid: "uid", ResourceVersion: "1"},
		TriggerTime: timestamppb.New(now),
		State: &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
			Pods: selecting(to), IsolatesIngress: true, Ingress: rules,
		}},
	}
}

// policedShop has web pods on n0 and n1, db on n2, each node known.
func policedShop(t *testing.T, o Options) *world {
	t.Helper()
	w := newWorld(t, o)
	w.facts(policedFacts()...)
	w.ready()
	w.pass(time.Second)
	w.checkConverged()
	w.forget()
	return w
}

func policedFacts() []*schemas.Fact {
	return []*schemas.Fact{
		nodeFact("n0", ""), nodeFact("n1", ""), nodeFact("n2", ""), nodeFact("n3", ""),
		labelledPod("web-0", "n0", "10.200.0.1", "web"), labelledPod("web-1", "n1", "10.200.1.1", "web"),
		labelledPod("db-0", "n2", "10.200.2.1", "db"), labelledPod("other", "n1", "10.200.1.2", "other"),
	}
}

// deltas returns the layers and causes of what was published, in order.
func (w *world) deltas() (list []string) {
	w.t.Helper()
	for _, m := range w.published {
		layer, is := strings.CutPrefix(m.Subject, "deltaplane.v1.apply.")
		if !is {
			continue
		}
		d := &schemas.Delta{}
		mustUnmarshal(w.t, m.Data, d)
		var causes []string
		for _, c := range d.GetCauses() {
			causes = append(causes, c.GetObject().GetKind()+" "+c.GetObject().GetName())
		}
		list = append(list, layer+": "+strings.Join(causes, ", "))
	}
	return list
}

// TestAPolicyReachesTheNodesOfItsPodsAlone adds, edits and removes a policy.
//
// Policy row 8: a policy edit = one pointer switch, where it is needed.
func TestAPolicyReachesTheNodesOfItsPodsAlone(t *testing.T) {
	w := policedShop(t, Options{})
	// The first policy there is tells each node that there are some.
	w.facts(ingressPolicy("first", "none", "none", 1, "", w.now))
	w.pass(time.Second)
	w.checkConverged()
	for _, node := range []string{"n0", "n1", "n2", "n3"} {
		if self := w.nodes[model.NodeLayer(node)].rows.Selves[model.SelfKey{}]; !self.Policed {
			t.Errorf("node %s doesn't know that there are policies: %+v", node, self)
		}
	}
	for _, step := range []struct {
		what string
		fact *schemas.Fact
		want []string
	}{
		{"added", ingressPolicy("p", "db", "web", 80, "", w.now), []string{"node.n2: NetworkPolicy p"}},
		{"edited", ingressPolicy("p", "db", "web", 81, "", w.now), []string{"node.n2: NetworkPolicy p"}},
		{"a pod joins a known identity", labelledPod("web-2", "n3", "10.200.3.1", "web"), []string{"node.n2: Pod web-2", "node.n3: Pod web-2"}},
		{"a pod that no policy names", labelledPod("other-2", "n3", "10.200.3.2", "other"), []string{"node.n3: Pod other-2"}},
		{"removed", goneFact(ingressPolicy("p", "", "", 0, "", w.now)), []string{"node.n2: NetworkPolicy p"}},
	} {
		w.forget()
		w.facts(step.fact)
		w.pass(time.Second)
		w.checkConverged()
		got := w.deltas()
		slices.Sort(got)
		if diff := cmp.Diff(step.want, slices.Compact(got)); diff != "" {
			t.Errorf("%s: layers and causes (-want +got):\n%s", step.what, diff)
		}
	}
	// The last policy's end tells each node, too.
	w.facts(goneFact(ingressPolicy("first", "", "", 0, "", w.now)))
	w.pass(time.Second)
	w.checkConverged()
	if self := w.nodes[model.NodeLayer("n3")].rows.Selves[model.SelfKey{}]; self.Policed {
		t.Error("node n3 believes that there are policies still")
	}
}

// TestATakeoverKeepsIdentities restarts the compiler among policies whose identities have a history.
func TestATakeoverKeepsIdentities(t *testing.T) {
	w := policedShop(t, Options{})
	facts := append(policedFacts(), ingressPolicy("b", "db", "other", 80, "10.0.0.0/8", w.now))
	w.facts(ingressPolicy("a", "db", "web", 80, "", w.now), ingressPolicy("c", "web", "db", 80, "", w.now))
	w.pass(time.Second)
	w.facts(ingressPolicy("b", "db", "other", 80, "10.0.0.0/8", w.now))
	w.pass(time.Second)
	w.facts(goneFact(ingressPolicy("c", "", "", 0, "", w.now)), goneFact(ingressPolicy("a", "", "", 0, "", w.now)))
	w.pass(time.Second)
	w.checkConverged()
	revision := w.core.Revision()
	w.restart(Options{})
	w.forget()
	w.facts(facts...)
	w.ready()
	w.pass(2 * time.Minute) // so that all is compared once
	w.checkConverged()
	if w.core.Revision() != revision || w.mismatch != nil {
		t.Errorf("revision %d after a takeover with nothing new, %d before; mismatch %v", w.core.Revision(), revision, w.mismatch)
	}
}

// TestWhatPoliciesChangedUnseenIsTurnedInSteps edits policies while no compiler leads.
func TestWhatPoliciesChangedUnseenIsTurnedInSteps(t *testing.T) {
	w := policedShop(t, Options{})
	w.facts(ingressPolicy("a", "db", "web", 80, "10.200.0.0/16", w.now))
	w.pass(time.Second)
	w.restart(Options{})
	w.forget()
	w.facts(append(policedFacts(), ingressPolicy("a", "db", "other", 80, "10.200.1.0/24", w.now))...)
	w.ready()
	w.pass(time.Second)
	w.checkConverged()
	switched := "node.n2: NetworkPolicy a"
	if diff := cmp.Diff([]string{switched, switched, switched}, w.deltas()); diff != "" {
		t.Errorf("layers and causes (-want +got):\n%s", diff)
	}
}

// TestPoliciesBeyondTheLimitsAreNamed closes what they select, and says so.
//
// Policy row 9: what does not fit is refused as a whole and named, its pods fail closed, others untouched.
func TestPoliciesBeyondTheLimitsAreNamed(t *testing.T) {
	o := Options{}
	o.Settings.Policy = policy.Limits{Blocks: 1, Combinations: 100, Ports: 100}
	w := policedShop(t, o)
	large := ingressPolicy("large", "db", "web", 80, "10.0.0.0/8", w.now)
	large.GetNetworkPolicy().Ingress[1].Peers[0].GetBlock().Except = []string{"10.1.0.0/16", "10.2.0.0/16"}
	unread := ingressPolicy("unread", "web", "db", 80, "", w.now)
	unread.GetNetworkPolicy().Refused = "it isn't understood"
	w.facts(large, unread, ingressPolicy("good", "other", "web", 80, "", w.now))
	w.pass(time.Second)
	w.checkConverged()
	var kinds []string
	for _, e := range w.events {
		kinds = append(kinds, e.GetKind()+" "+e.GetObject().GetName())
	}
	slices.Sort(kinds)
	if diff := cmp.Diff([]string{"object_set_aside large", "object_set_aside unread"}, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if got := len(w.core.allAside()); got != 2 || w.core.SetAside() != 2 {
		t.Errorf("status sets %d objects aside, want 2", got)
	}
	rows := w.nodes[model.NodeLayer("n2")].rows
	set := rows.Endpoints[ip(10, 200, 2, 1)].Ingress
	if v := rows.Verdicts[model.VerdictKey{RuleSet: set}]; v.Action != model.ActionClosed {
		t.Errorf("the pods of a policy that is too large have the verdict %s, want closed", v.Action)
	}
	w.forget()
	w.facts(goneFact(large))
	w.pass(time.Second)
	w.checkConverged()
	if got := w.core.SetAside(); got != 1 || len(w.events) != 0 {
		t.Errorf("%d objects are set aside and %d events told after its end, want 1 and none", got, len(w.events))
	}
}

// TestEditsOfPoliciesKeepThePace edits a policy all the time.
func TestEditsOfPoliciesKeepThePace(t *testing.T) {
	w := policedShop(t, Options{})
	w.facts(ingressPolicy("a", "db", "web", 80, "", w.now))
	w.pass(time.Second)
	w.forget()
	for i := range 3000 {
		w.facts(ingressPolicy("a", "db", []string{"web", "other"}[i%2], uint32(80+i%7), fmt.Sprintf("10.%d.0.0/16", i%5), w.now))
		w.pass(time.Millisecond)
	}
	w.pass(time.Second)
	w.checkConverged()
	deltas := w.heard(model.NodeLayer("n2"))
	for _, d := range deltas {
		first, within := d.GetCommitted().AsTime(), 0
		for _, other := range deltas {
			if since := other.GetCommitted().AsTime().Sub(first); since >= 0 && since < time.Second {
				within++
			}
		}
		if within > 20 {
			t.Errorf("node n2 got %d messages in the second from %s on", within, first.Sub(start))
		}
	}
	if len(deltas) < 9 {
		t.Errorf("%d deltas in three seconds, want some", len(deltas))
	}
}

// TestWrongVerdictsAreFoundAndPutRight spoils what a node's rule set says.
func TestWrongVerdictsAreFoundAndPutRight(t *testing.T) {
	w := policedShop(t, Options{})
	w.facts(ingressPolicy("a", "db", "web", 80, "", w.now))
	w.pass(time.Second)
	n2 := model.NodeLayer("n2")
	held := w.core.layers[n2]
	var wrong []model.Verdict
	for _, v := range held.rows.Verdicts {
		v.Action = model.ActionAllow
		wrong = append(wrong, v)
	}
	held.at.Digest = held.rows.Apply(&model.Change{Put: model.Rows{Verdicts: wrong}}, held.at.Digest)
	w.nodes[n2].rows, w.nodes[n2].at = held.rows.Clone(), held.at
	w.forget()
	w.pass(2 * time.Minute)
	if w.mismatch == nil || len(w.mismatch.Full[n2].Verdicts) == 0 {
		t.Errorf("mismatch %+v, want the verdicts of node n2", w.mismatch)
	}
	if want, got := w.core.rows(n2).Digest(), w.nodes[n2].at.Digest; want != got {
		t.Errorf("after the repair node n2 has digest %s, want %s", got, want)
	}
	for _, v := range w.nodes[n2].rows.Verdicts {
		if v.Identity == 0 && v.Action != model.ActionIsolate {
			t.Errorf("after the repair everyone else's verdict is %s, want isolate", v.Action)
		}
	}
	// It goes on from there.
	w.facts(ingressPolicy("a", "db", "other", 80, "", w.now))
	w.pass(time.Second)
	w.checkConverged()
}
