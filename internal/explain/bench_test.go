// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// town is 300 pods of 30 applications on 10 nodes, a Service for each application, and 300 policies, ten for each.
func town(b *testing.B) *World {
	b.Helper()
	var facts []*schemas.Fact
	for n := range 10 {
		facts = append(facts, nodeFact(fmt.Sprintf("n%d", n), fmt.Sprintf("172.20.0.%d", n+1)))
	}
	for app := range 30 {
		name := fmt.Sprintf("app%d", app)
		var ends []string
		for i := range 10 {
			addr := fmt.Sprintf("10.244.%d.%d", i, app+1)
			facts = append(facts, labelled(podFact("shop", fmt.Sprintf("%s-%d", name, i), fmt.Sprintf("n%d", i), addr), "app", name))
			ends = append(ends, addr, fmt.Sprintf("n%d", i))
		}
		facts = append(facts, serviceFact("shop", name, 80, model.TCP, fmt.Sprintf("10.96.0.%d", app+1)), backends("shop", name, ends[:6]...))
		for p := range 10 {
			rule := fromPods(fmt.Sprintf("app%d", (app+3*p+1)%30), uint32(8080*(p%2)))
			facts = append(facts, ingressOf(fmt.Sprintf("%s-%d", name, p), name, rule))
		}
	}
	w, warnings, err := FromFacts(facts, Config{})
	if err != nil || len(warnings) > 0 {
		b.Fatal(err, warnings)
	}
	return w
}

// BenchmarkBatch asks questions of pods about pods and Services, each another one than before. A hundred thousand a
// minute is 600 µs each.
func BenchmarkBatch(b *testing.B) {
	for _, engine := range []string{"model", "kernel"} {
		b.Run(engine, func(b *testing.B) {
			w := town(b)
			var e Engine = Model{}
			if engine == "kernel" {
				testkit.NeedKernel(b)
				k, err := NewKernel(w)
				if err != nil {
					b.Fatal(err)
				}
				defer k.Close()
				e = k
			}
			var in strings.Builder
			for i := range b.N {
				to := fmt.Sprintf("app%d-%d:8080", i*7%30, i*3%10)
				if i%2 == 0 {
					to = fmt.Sprintf("app%d:80", i*11%30)
				}
				fmt.Fprintf(&in, `{"id":%d,"from":"shop/app%d-%d","to":"shop/%s"}`+"\n", i, i%30, i*7/30%10, to)
			}
			b.ReportAllocs()
			b.ResetTimer()
			asked, failed, err := w.Batch(b.Context(), e, Question{}, strings.NewReader(in.String()), io.Discard)
			if err != nil || failed > 0 || asked != b.N {
				b.Fatalf("%d of %d failed: %v", failed, asked, err)
			}
			b.ReportMetric(60*float64(b.N)/b.Elapsed().Seconds(), "questions/min")
		})
	}
}
