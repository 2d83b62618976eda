// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// village is one namespace on two nodes: a server on n1 that a policy selects, and so many clients on n2.
func village(t *testing.T, clients int) *world {
	t.Helper()
	w := newWorld()
	facts := []*schemas.Fact{podOn("n1", "server", "10.0.0.1", map[string]string{"app": "server"}), allowing("p", 80, labelled("app", "client"))}
	for i := range clients {
		facts = append(facts, client(i, nil))
	}
	w.follow(t, facts...)
	return w
}

// follow applies facts and takes all stages.
func (w *world) follow(t *testing.T, facts ...*schemas.Fact) (stages []Stage) {
	t.Helper()
	stages = w.apply(t, facts...)
	for _, stage := range stages {
		w.take(t, stage)
	}
	return stages
}

func podOn(node, name, addr string, labels map[string]string) *schemas.Fact {
	return fact(state.KindPod, "x", name, &schemas.Fact_Pod{Pod: &schemas.Pod{Node: node, Addresses: [][]byte{bytes(addr)}, Labels: labels}})
}

func client(i int, more map[string]string) *schemas.Fact {
	labels := map[string]string{"app": "client"}
	maps.Copy(labels, more)
	return podOn("n2", fmt.Sprintf("client%02d", i), fmt.Sprintf("10.0.1.%d", i+1), labels)
}

func allowing(name string, port uint32, peers *schemas.Selector) *schemas.Fact {
	return fact(state.KindNetworkPolicy, "x", name, &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
		Pods: labelled("app", "server"), IsolatesIngress: true,
		Ingress: []*schemas.PolicyRule{{Action: 1, Peers: pods(&schemas.PodPeer{Pods: peers}), Ports: tcp(port)}},
	}})
}

// identities counts how many addresses each identity has on n1.
func (w *world) identities() map[model.IdentityID]int {
	n := map[model.IdentityID]int{}
	for _, row := range w.tables["n1"].Peers.All() {
		n[row.Identity]++
	}
	return n
}

// wrote describes what stages change on n1, or wherever if all are asked for.
func wrote(stages []Stage) (text string) {
	for _, stage := range stages {
		for _, node := range []string{"n1", "n2"} {
			c := stage[model.NodeLayer(node)]
			if c == nil {
				continue
			}
			text += fmt.Sprintf("%s: endpoints +%d-%d, peers +%d-%d, verdicts +%d-%d, ports +%d-%d, rules +%d-%d, rule sets +%d-%d\n", node,
				len(c.Put.Endpoints), len(c.Remove.Endpoints), len(c.Put.Peers), len(c.Remove.Peers), len(c.Put.Verdicts), len(c.Remove.Verdicts),
				len(c.Put.PortVerdicts), len(c.Remove.PortVerdicts), len(c.Put.Rules), len(c.Remove.Rules), len(c.Put.RuleSets), len(c.Remove.RuleSets))
		}
		text += "--\n"
	}
	return text
}

// TestWritesOfAChange is the budget of rows that changes cost.
//
// Policy row 8: a pod that joins a known identity is one row where it is needed, labels that no policy tells apart are
// none, an edit is one pointer.
func TestWritesOfAChange(t *testing.T) {
	for _, test := range []struct {
		name  string
		facts []*schemas.Fact
		want  string
	}{
		{
			"a pod joins a known identity",
			[]*schemas.Fact{client(20, nil)},
			"n1: endpoints +0-0, peers +1-0, verdicts +0-0, ports +0-0, rules +0-0, rule sets +0-0\n" +
				"n2: endpoints +1-0, peers +0-0, verdicts +0-0, ports +0-0, rules +0-0, rule sets +0-0\n--\n",
		},
		{"a label that no policy tells apart", []*schemas.Fact{client(3, map[string]string{"version": "v2"})}, ""},
		{
			"an edit of ports",
			[]*schemas.Fact{allowing("p", 81, labelled("app", "client"))},
			"n1: endpoints +1-0, peers +0-0, verdicts +2-2, ports +1-1, rules +0-0, rule sets +1-1\n--\n",
		},
		{
			// All that the old selector matched the new one does: the class keeps its number under another name.
			"an edit of peers who stay the same",
			[]*schemas.Fact{allowing("p", 80, &schemas.Selector{Terms: []*schemas.SelectorTerm{{Key: "app", Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN, Values: []string{"server"}}}})},
			"n1: endpoints +1-0, peers +0-0, verdicts +2-2, ports +0-0, rules +0-0, rule sets +1-1\n--\n",
		},
		{
			"a policy that tells one client apart, and what merges when it goes",
			[]*schemas.Fact{client(0, map[string]string{"role": "boss"}), allowing("q", 443, labelled("role", "boss"))},
			// The one gets another identity, with what the old rule set says of it; then the pointer is turned.
			"n1: endpoints +0-0, peers +1-0, verdicts +1-0, ports +0-0, rules +0-0, rule sets +0-0\n--\n" +
				"n1: endpoints +1-0, peers +0-0, verdicts +3-3, ports +2-0, rules +1-0, rule sets +1-1\n--\n",
		},
		{
			"another pod has the address at once",
			[]*schemas.Fact{fact(state.KindPod, "x", "client00", nil), podOn("n2", "client99", "10.0.1.1", map[string]string{"app": "client"})},
			"n2: endpoints +1-0, peers +0-0, verdicts +0-0, ports +0-0, rules +0-0, rule sets +0-0\n--\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := village(t, 10)
			if got := wrote(w.follow(t, test.facts...)); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

// TestTheLargestPartKeepsTheNumber splits a class so that most of its members change their name, and merges it again.
func TestTheLargestPartKeepsTheNumber(t *testing.T) {
	w := village(t, 10)
	before := w.identities()
	if len(before) != 1 {
		t.Fatalf("identities are %v, want one", before)
	}
	var number model.IdentityID
	for id := range before {
		number = id
	}
	var most []*schemas.Fact
	for i := range 7 {
		most = append(most, client(i, map[string]string{"role": "boss"}))
	}
	w.follow(t, most...)
	w.follow(t, allowing("q", 443, labelled("role", "boss")))
	if after := w.identities(); len(after) != 2 || after[number] != 7 {
		t.Errorf("identities are %v, want %d with 7 addresses and one with 3", after, number)
	}
	w.follow(t, fact(state.KindNetworkPolicy, "x", "q", nil))
	if after := w.identities(); len(after) != 1 || after[number] != 10 {
		t.Errorf("identities are %v, want %d with all addresses", after, number)
	}
}

// TestANamespacesLabelsRenameItsClasses changes labels of a namespace with many pods: no address is written again.
func TestANamespacesLabelsRenameItsClasses(t *testing.T) {
	w := village(t, 10)
	everyone := &schemas.NetworkPolicy{
		Pods: labelled("app", "server"), IsolatesIngress: true,
		Ingress: []*schemas.PolicyRule{{Action: 1, AnyPort: true, Peers: pods(&schemas.PodPeer{Namespaces: labelled("team", "b")})}},
	}
	w.follow(t, fact(state.KindNetworkPolicy, "x", "r", &schemas.Fact_NetworkPolicy{NetworkPolicy: everyone}))
	stages := w.follow(t, fact(state.KindNamespace, "", "x", &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: map[string]string{"team": "b"}}}))
	// The server's own class is known now, too.
	want := "n1: endpoints +0-0, peers +1-0, verdicts +2-0, ports +0-0, rules +0-0, rule sets +0-0\n--\n"
	if got := wrote(stages); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestPointersTurnAfterAddresses relabels a pod that is subject and peer: others see what it is now before its own rule
// sets change, each in a revision of its own.
func TestPointersTurnAfterAddresses(t *testing.T) {
	w := village(t, 3)
	w.follow(t, podOn("n1", "other", "10.0.0.2", map[string]string{"app": "client"}))
	stages := w.follow(t, podOn("n1", "other", "10.0.0.2", map[string]string{"app": "server"}))
	want := "n1: endpoints +0-0, peers +0-1, verdicts +0-0, ports +0-0, rules +0-0, rule sets +0-0\n--\n" +
		"n1: endpoints +1-0, peers +0-0, verdicts +0-0, ports +0-0, rules +0-0, rule sets +0-0\n--\n"
	if got := wrote(stages); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestNumbersCountOnAfterTheLast lets a long-lived cluster use up all numbers: none may mean two classes, nobody, or no
// row.
func TestNumbersCountOnAfterTheLast(t *testing.T) {
	w := village(t, 3)
	w.engine.next = absent - 2
	for i := range 3 {
		w.follow(t, client(i, map[string]string{"role": fmt.Sprint(i)}), allowing(fmt.Sprint("q", i), 81, labelled("role", fmt.Sprint(i))))
	}
	used := map[model.IdentityID]bool{0: true, absent: true}
	for _, k := range w.engine.classes {
		if used[k.number] {
			t.Errorf("number %d is of two classes, or none that one can have", k.number)
		}
		used[k.number] = true
	}
	if len(w.engine.classes) != 3 {
		t.Errorf("%d classes, want one a client", len(w.engine.classes))
	}
}

// TestTheLastNumberIsNotTakenOver finds rows with a number that stands for no row.
func TestTheLastNumberIsNotTakenOver(t *testing.T) {
	w := village(t, 2)
	held := w.tables["n1"].Clone()
	for key := range held.Peers {
		held.Peers[key] = absent
	}
	rows := New(Limits{}).Load(w.db.Snapshot(), map[string]*model.Tables{"n1": held})["n1"]
	for _, row := range rows.Peers.All() {
		if row.Identity == absent || row.Identity == 0 {
			t.Errorf("%s has identity %d", row.Addr, row.Identity)
		}
	}
	if len(rows.Peers) != 2 {
		t.Errorf("%d peers, want 2", len(rows.Peers))
	}
}
