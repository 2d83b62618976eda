// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// city is a big cluster: each namespace has teams of pods with labels of their own, and the policies that people write:
// a default denial, one for the namespace, some between teams, and ways out to the name servers and to the world.
type city struct{ namespaces, teams, each, nodes int }

// big is 100,000 pods in 1,000 namespaces on 1,000 nodes, with 10,000 policies.
var big = city{namespaces: 1000, teams: 10, each: 10, nodes: 1000}

func (c city) facts() (facts []*schemas.Fact) {
	for n := range c.nodes {
		facts = append(facts, fact(state.KindNode, "", fmt.Sprint("n", n), &schemas.Fact_Node{Node: &schemas.Node{
			Addresses: [][]byte{{172, 16, byte(n >> 8), byte(n)}}, Labels: map[string]string{"zone": fmt.Sprint(n % 3)},
		}}))
	}
	for n := range c.namespaces {
		facts = append(facts, c.namespace(n, "a"))
		for team := range c.teams {
			for i := range c.each {
				facts = append(facts, c.pod(n, team, i))
			}
		}
		facts = append(facts, c.policies(n)...)
	}
	return facts
}

func (c city) name(n int) string { return fmt.Sprintf("ns%04d", n) }

func (c city) namespace(n int, stage string) *schemas.Fact {
	return fact(state.KindNamespace, "", c.name(n), &schemas.Fact_Namespace{Namespace: &schemas.Namespace{
		Labels: map[string]string{"group": fmt.Sprint(n % 20), "stage": stage},
	}})
}

func (c city) pod(n, team, i int) *schemas.Fact {
	number := (n*c.teams+team)*c.each + i
	return fact(state.KindPod, c.name(n), fmt.Sprintf("team%d-%d", team, i), &schemas.Fact_Pod{Pod: &schemas.Pod{
		Node: fmt.Sprint("n", number*7919%c.nodes), Addresses: [][]byte{{10, byte(number >> 16), byte(number >> 8), byte(number)}},
		Labels: map[string]string{
			"app": fmt.Sprint("team", team), "tier": fmt.Sprint(team % 3), "pod-template-hash": fmt.Sprintf("h%d-%d", n, team),
			"version": "v1", "owner": "someone",
		},
		Ports: []*schemas.EndpointPort{{Name: "http", Protocol: 6, Port: uint32(8080 + team%2)}},
	}})
}

func app(team int) *schemas.Selector {
	return labelled("app", fmt.Sprint("team", team))
}

func labelled(key, value string) *schemas.Selector {
	return &schemas.Selector{Terms: []*schemas.SelectorTerm{{Key: key, Operator: 1, Values: []string{value}}}}
}

func pods(p *schemas.PodPeer) []*schemas.PolicyPeer {
	return []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Pods{Pods: p}}}
}

func tcp(port uint32) []*schemas.PolicyPort { return []*schemas.PolicyPort{{Protocol: 6, Port: port}} }

func (c city) policies(n int) (facts []*schemas.Fact) {
	add := func(name string, p *schemas.NetworkPolicy) {
		facts = append(facts, fact(state.KindNetworkPolicy, c.name(n), name, &schemas.Fact_NetworkPolicy{NetworkPolicy: p}))
	}
	add("deny", &schemas.NetworkPolicy{Pods: &schemas.Selector{}, IsolatesIngress: true, IsolatesEgress: true})
	add("dns", &schemas.NetworkPolicy{Pods: &schemas.Selector{}, IsolatesEgress: true, Egress: []*schemas.PolicyRule{{
		Action: 1, Peers: pods(&schemas.PodPeer{Namespaces: labelled(state.NamespaceLabel, c.name(0)), Pods: app(0)}),
		Ports: []*schemas.PolicyPort{{Protocol: 17, Port: 53}, {Protocol: 6, Port: 53}},
	}}})
	add("out", &schemas.NetworkPolicy{Pods: &schemas.Selector{}, IsolatesEgress: true, Egress: []*schemas.PolicyRule{{
		Action: 1, Ports: tcp(443), Peers: []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Block{
			Block: &schemas.BlockPeer{Cidr: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "169.254.169.254/32"}},
		}}},
	}}})
	add("same", &schemas.NetworkPolicy{
		Pods: &schemas.Selector{}, IsolatesIngress: true,
		Ingress: []*schemas.PolicyRule{{Action: 1, Peers: pods(&schemas.PodPeer{}), AnyPort: true}},
		Egress:  []*schemas.PolicyRule{{Action: 1, Peers: pods(&schemas.PodPeer{}), AnyPort: true}}, IsolatesEgress: true,
	})
	add("watched", &schemas.NetworkPolicy{Pods: &schemas.Selector{}, IsolatesIngress: true, Ingress: []*schemas.PolicyRule{{
		Action: 1, Peers: pods(&schemas.PodPeer{Namespaces: labelled(state.NamespaceLabel, c.name(1)), Pods: app(1)}),
		Ports: []*schemas.PolicyPort{{Protocol: 6, Name: "http"}},
	}}})
	for i := range 5 {
		add(fmt.Sprint("team", i), c.team(n, i, 8000))
	}
	return facts
}

// team is a policy that lets one team's pods be reached by another's of a neighbouring namespace.
func (c city) team(n, team int, port uint32) *schemas.NetworkPolicy {
	return &schemas.NetworkPolicy{Pods: app(team), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{{
		Action: 1, Ports: []*schemas.PolicyPort{{Protocol: 6, Port: port, EndPort: port + 99}},
		Peers: pods(&schemas.PodPeer{
			Namespaces: labelled(state.NamespaceLabel, c.name((n+1)%c.namespaces)), Pods: app((team + 1) % c.teams),
		}),
	}}}
}

func (c city) build(t testing.TB) *world {
	t.Helper()
	w := newWorld()
	if _, err := w.db.Apply(c.facts()...); err != nil {
		t.Fatal(err)
	}
	return w
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1e6
}

// BenchmarkLoad compiles the big city wholly.
func BenchmarkLoad(b *testing.B) {
	w := big.build(b)
	before := heap()
	b.ReportAllocs()
	var tables map[string]*model.Tables
	for b.Loop() {
		w.engine = New(Limits{})
		tables = w.engine.Load(w.db.Snapshot(), nil)
	}
	b.ReportMetric(heap()-before, "MB-with-rows")
	peers, verdicts, total := 0, 0, 0
	for _, t := range tables {
		peers += len(t.Peers)
		verdicts += len(t.Verdicts)
		total += t.Len()
	}
	clear(tables)
	b.ReportMetric(heap()-before, "MB-engine")
	b.ReportMetric(float64(peers), "peers")
	b.ReportMetric(float64(verdicts), "verdicts")
	b.ReportMetric(float64(total), "rows")
	b.ReportMetric(float64(len(w.engine.classes)), "identities")
	b.ReportMetric(float64(len(w.engine.ruleSets)), "rule-sets")
}

// BenchmarkNode says what one node of the big city is told, by table.
func BenchmarkNode(b *testing.B) {
	w := big.build(b)
	var all model.Tables
	for b.Loop() {
		w.engine = New(Limits{})
		all = *w.engine.Load(w.db.Snapshot(), nil)["n0"]
	}
	b.ReportMetric(0, "ns/op")
	for table, rows := range map[string]int{
		"endpoints": len(all.Endpoints), "peers": len(all.Peers), "blocks": len(all.Blocks), "verdicts": len(all.Verdicts),
		"port-verdicts": len(all.PortVerdicts), "rule-sets": len(all.RuleSets), "rules": len(all.Rules),
	} {
		b.ReportMetric(float64(rows), table)
	}
}

// BenchmarkCrowd gives the namespace of a tenth of 100,000 pods a label that a policy elsewhere asks for, and takes it away.
func BenchmarkCrowd(b *testing.B) {
	others := city{namespaces: 900, teams: 10, each: 10, nodes: 1000}
	w := others.build(b)
	crowd := func(tier string) *schemas.Fact {
		return fact(state.KindNamespace, "", "crowd", &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: map[string]string{"tier": tier}}})
	}
	facts := []*schemas.Fact{crowd("none"), fact(state.KindNetworkPolicy, others.name(7), "gold", &schemas.Fact_NetworkPolicy{
		NetworkPolicy: &schemas.NetworkPolicy{Pods: app(1), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{{
			Action: 1, AnyPort: true, Peers: pods(&schemas.PodPeer{Namespaces: labelled("tier", "gold")}),
		}}},
	})}
	for i := range 10_000 {
		facts = append(facts, fact(state.KindPod, "crowd", fmt.Sprint("pod-", i), &schemas.Fact_Pod{Pod: &schemas.Pod{
			Node: fmt.Sprint("n", i%others.nodes), Addresses: [][]byte{{10, 200, byte(i >> 8), byte(i)}}, Labels: map[string]string{"app": fmt.Sprint("team", i%10)},
		}}))
	}
	if _, err := w.db.Apply(facts...); err != nil {
		b.Fatal(err)
	}
	w.engine.Load(w.db.Snapshot(), nil)
	rows, layers := 0, 0
	for b.Loop() {
		for _, tier := range []string{"gold", "none"} {
			for _, stage := range w.apply(b, crowd(tier)) {
				layers += len(stage)
				for _, c := range stage {
					rows += c.Put.Len() + c.Remove.Len()
				}
			}
		}
	}
	b.ReportMetric(float64(rows)/float64(2*b.N), "rows/change")
	b.ReportMetric(float64(layers)/float64(2*b.N), "layers/change")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(2*b.N), "µs/change")
}

// BenchmarkUpdate changes one thing in the big city and back.
func BenchmarkUpdate(b *testing.B) {
	w := big.build(b)
	w.engine.Load(w.db.Snapshot(), nil)
	pod := func(i int, change func(*schemas.Pod)) *schemas.Fact {
		f := big.pod(42, 3, i)
		change(f.GetPod())
		return f
	}
	none := func(*schemas.Pod) {}
	all := func(stage string) (facts []*schemas.Fact) {
		for n := range 20 {
			facts = append(facts, big.namespace(20*n, stage))
		}
		return facts
	}
	policy := func(p *schemas.NetworkPolicy) *schemas.Fact {
		return fact(state.KindNetworkPolicy, big.name(42), "team1", &schemas.Fact_NetworkPolicy{NetworkPolicy: p})
	}
	for _, bench := range []struct {
		name  string
		there []*schemas.Fact
		back  []*schemas.Fact
	}{
		{"a pod comes and goes", []*schemas.Fact{pod(10, none)}, []*schemas.Fact{fact(state.KindPod, big.name(42), "team3-10", nil)}},
		{
			"a label that no policy knows",
			[]*schemas.Fact{pod(1, func(p *schemas.Pod) { p.Labels["version"] = "v2" })},
			[]*schemas.Fact{pod(1, none)},
		},
		{
			"a label that policies know",
			[]*schemas.Fact{pod(1, func(p *schemas.Pod) { p.Labels["app"] = "team4" })},
			[]*schemas.Fact{pod(1, none)},
		},
		{"a policy's port", []*schemas.Fact{policy(big.team(42, 1, 9000))}, []*schemas.Fact{policy(big.team(42, 1, 8000))}},
		{"a policy's peers", []*schemas.Fact{policy(big.team(41, 2, 8000))}, []*schemas.Fact{policy(big.team(42, 1, 8000))}},
		{"a policy comes and goes", []*schemas.Fact{policy(big.team(42, 1, 8000))}, []*schemas.Fact{fact(state.KindNetworkPolicy, big.name(42), "team1", nil)}},
		{"labels of 20 namespaces that no policy knows", all("b"), all("a")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			rows, stages := 0, 0
			for b.Loop() {
				for _, facts := range [][]*schemas.Fact{bench.there, bench.back} {
					for _, stage := range w.apply(b, facts...) {
						stages++
						for _, c := range stage {
							rows += c.Put.Len() + c.Remove.Len()
						}
					}
				}
			}
			b.ReportMetric(float64(rows)/float64(2*b.N), "rows/change")
			b.ReportMetric(float64(stages)/float64(2*b.N), "stages/change")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(2*b.N), "µs/change")
		})
	}
}

// BenchmarkManyBlocks brings and takes away the policy with the most blocks that one can have, and one with few.
func BenchmarkManyBlocks(b *testing.B) {
	w := big.build(b)
	w.engine.Load(w.db.Snapshot(), nil)
	for _, n := range []int{2, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			come := blocks(n)
			come.Object.Namespace = big.name(7)
			for i, peer := range come.GetNetworkPolicy().Ingress[0].Peers {
				peer.GetBlock().Cidr = fmt.Sprintf("10.200.%d.%d/32", i/256, i%256)
			}
			come.GetNetworkPolicy().Pods = app(1)
			for b.Loop() {
				w.apply(b, come)
				w.apply(b, &schemas.Fact{Object: come.Object})
			}
		})
	}
}

// BenchmarkManyPeers brings and takes away a policy with many peers that are everyone, each in other words: all classes
// split, and no verdict but the policy's own pods' changes.
func BenchmarkManyPeers(b *testing.B) {
	small := city{namespaces: 100, teams: 10, each: 10, nodes: 100}
	w := small.build(b)
	w.engine.Load(w.db.Snapshot(), nil)
	for _, n := range []int{8, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := &schemas.PolicyRule{Action: 1, AnyPort: true}
			for i := range n {
				but := &schemas.Selector{Terms: []*schemas.SelectorTerm{{Key: "x", Operator: 2, Values: []string{fmt.Sprint(i)}}}}
				r.Peers = append(r.Peers, pods(&schemas.PodPeer{Namespaces: &schemas.Selector{}, Pods: but})...)
			}
			come := fact(state.KindNetworkPolicy, small.name(7), "many", &schemas.Fact_NetworkPolicy{NetworkPolicy: &schemas.NetworkPolicy{
				Pods: app(1), IsolatesIngress: true, Ingress: []*schemas.PolicyRule{r},
			}})
			for b.Loop() {
				w.apply(b, come)
				w.apply(b, &schemas.Fact{Object: come.Object})
			}
		})
	}
}
