// SPDX-License-Identifier: Apache-2.0

package core

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// A cluster of policies: performance rows 6 and 9.
const (
	manyNamespaces = 1000
	podsEach       = 100 // of a namespace, of 5 apps
	policiesEach   = 10
	manyNodes      = 1000
)

// BenchmarkPolicies takes in 100,000 pods on 1,000 nodes with 10,000 policies and compiles them, from facts to the
// log. It reports what the compiler holds after it, and what it used from the system at most.
func BenchmarkPolicies(b *testing.B) {
	for b.Loop() {
		begun, before := time.Now(), heap()
		w := newWorld(b, Options{})
		policedCluster(w)
		facts := time.Since(begun)
		w.core.CaughtUp(w.now)
		out := w.core.Facts(w.now, 1, complete())
		compiled := time.Since(begun)
		bytes := drain(w, out)
		b.ReportMetric(facts.Seconds(), "s-facts")
		b.ReportMetric((compiled - facts).Seconds(), "s-compile")
		b.ReportMetric(time.Since(begun).Seconds()-compiled.Seconds(), "s-append")
		b.ReportMetric(float64(bytes)/1e6, "MB-log")
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.Sys)/1e6, "MB-system")
		b.ReportMetric(float64(heap()-before)/1e6, "MB-held")
		for table, rows := range w.core.Tables() {
			if rows > 0 {
				b.ReportMetric(float64(rows), table)
			}
		}
		begun = time.Now()
		if w.core.checkAll(w.now, ""); w.core.Stats().Mismatches > 0 {
			b.Fatal("compiled anew the rows are others")
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-check")
	}
}

// BenchmarkPolicyChanges changes one thing there, from the fact to the deltas.
func BenchmarkPolicyChanges(b *testing.B) {
	w := newWorld(b, Options{})
	policedCluster(w)
	w.core.CaughtUp(w.now)
	drain(w, w.core.Facts(w.now, 1, complete()))
	for _, change := range []struct {
		name string
		fact func(n int) *schemas.Fact
	}{
		{"edit", func(n int) *schemas.Fact { return manyPolicy(42, 3, uint32(8000+n%2)) }},
		{"policy", func(n int) *schemas.Fact {
			if n%2 == 0 {
				return manyPolicy(42, 11, 9000)
			}
			return goneFact(manyPolicy(42, 11, 0))
		}},
		{"relabel-pod", func(n int) *schemas.Fact { return manyPod(42, 7, n%2) }},
		{"relabel-namespace", func(n int) *schemas.Fact { return manyNamespace(42, n%2) }},
		{"pod", func(n int) *schemas.Fact {
			if n%2 == 0 {
				return goneFact(manyPod(42, 7, 0))
			}
			return manyPod(42, 7, 0)
		}},
	} {
		b.Run(change.name, func(b *testing.B) {
			bytes, layers, n := 0, 0, 0
			b.ReportAllocs()
			for ; b.Loop(); n++ {
				w.now = w.now.Add(time.Minute)
				w.core.Facts(w.now, 1, clone(change.fact(n)))
				w.now = w.now.Add(time.Minute)
				out := w.core.step(w.now)
				for _, s := range w.core.appending {
					layers += len(s.entries)
				}
				bytes += drain(w, out)
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "B-delta/op")
			b.ReportMetric(float64(layers)/float64(b.N), "layers/op")
		})
	}
}

// drain stores what the core wants stored, and returns how many bytes that was.
func drain(w *world, out Output) (bytes int) {
	for out.Append != nil {
		for _, r := range out.Append {
			bytes += len(r.Data)
		}
		out = w.core.Appended(w.now)
	}
	return bytes
}

func policedCluster(w *world) {
	for n := range manyNodes {
		f := nodeFact(fmt.Sprint("node-", n), "")
		f.GetNode().PodCidrs = nil
		w.core.Facts(w.now, 1, clone(f))
	}
	for i := range manyNamespaces {
		w.core.Facts(w.now, 1, clone(manyNamespace(i, 0)))
		for p := range podsEach {
			w.core.Facts(w.now, 1, clone(manyPod(i, p, 0)))
		}
		for p := range policiesEach {
			w.core.Facts(w.now, 1, clone(manyPolicy(i, p, uint32(8000+p))))
		}
	}
}

func manyNamespace(i, version int) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Namespace", Name: fmt.Sprint("ns-", i)},
		State: &schemas.Fact_Namespace{Namespace: &schemas.Namespace{Labels: map[string]string{
			"team": fmt.Sprint("team-", (i+version)%50), "kubernetes.io/metadata.name": fmt.Sprint("ns-", i),
		}}},
	}
}

func manyPod(i, p, version int) *schemas.Fact {
	number := uint32(i*podsEach + p)
	addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24|number)))
	f := podFact(fmt.Sprint("pod-", p), fmt.Sprint("node-", (number*7)%manyNodes), addr.String())
	f.Object.Namespace, f.Object.Uid = fmt.Sprint("ns-", i), fmt.Sprint("uid-", number)
	f.GetPod().Labels = map[string]string{
		"app": fmt.Sprint("app-", (p+version)%5), "pod-template-hash": fmt.Sprint("hash-", number/20),
	}
	f.GetPod().Ports = []*schemas.EndpointPort{{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080}}
	return f
}

// manyPolicy lets one app of a namespace be reached by another, by all of a team's namespaces, or by a block.
func manyPolicy(i, p int, port uint32) *schemas.Fact {
	f := ingressPolicy(fmt.Sprint("policy-", p), fmt.Sprint("app-", p%5), fmt.Sprint("app-", (p+1)%5), port, "", start)
	f.Object.Namespace = fmt.Sprint("ns-", i)
	rule := f.GetNetworkPolicy().GetIngress()[0]
	switch p {
	case 1:
		team := selecting(fmt.Sprint("team-", i%50))
		team.Terms[0].Key = "team"
		rule.Peers = append(rule.Peers, &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{
			Namespaces: team, Pods: selecting("app-0"),
		}}})
	case 2:
		rule.Peers = append(rule.Peers, &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{
			Cidr: "0.0.0.0/0", Except: []string{"10.0.0.0/8"},
		}}})
	case 4:
		rule.Ports[0] = &schemas.PolicyPort{Protocol: schemas.Protocol_PROTOCOL_TCP, Name: "http"}
	}
	return f
}
