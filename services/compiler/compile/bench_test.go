// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// large returns a state of services with as many endpoints each, in slices of 100 as Kubernetes makes them.
func large(b *testing.B, services, endpointsEach int) *state.DB {
	b.Helper()
	db := state.New()
	var facts []*schemas.Fact
	for i := range services {
		name := fmt.Sprintf("s%05d", i)
		facts = append(facts, serviceFact(name, &schemas.Service{
			ClusterIps: [][]byte{{10, 96, byte(i >> 8), byte(i)}}, Ports: ports(port("http", model.TCP, 80)),
		}))
		for first := 0; first < endpointsEach; first += 100 {
			facts = append(facts, numbered(name, i, first, min(100, endpointsEach-first)))
		}
	}
	if _, err := db.Apply(facts...); err != nil {
		b.Fatal(err)
	}
	return db
}

func numbered(service string, i, first, count int) *schemas.Fact {
	m := endpoints(model.IPv4, ports(target("http", model.TCP, 8080)))
	for e := first; e < first+count; e++ {
		m.Endpoints = append(m.Endpoints, &schemas.SliceEndpoint{
			Address: []byte{byte(20 + i>>8), byte(i), byte(e >> 8), byte(e)}, Ready: true, Serving: true, Node: fmt.Sprint("n", e%5000),
		})
	}
	return sliceFact(fmt.Sprintf("%s-%d", service, first), service, m)
}

// BenchmarkFull5000ServicesOf50 compiles everything: performance row 5's cluster.
func BenchmarkFull5000ServicesOf50(b *testing.B) {
	snap := large(b, 5000, 50).Snapshot()
	b.ReportAllocs()
	rows := 0
	for b.Loop() {
		rows = Full(snap, ids.New(time.Minute), Settings{}).Layers[model.ClusterLayer].Len()
	}
	b.ReportMetric(float64(rows), "rows")
}

// BenchmarkOneEndpoint changes one endpoint of a Service of 50: what it costs must not depend on the cluster.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, services := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			db, alloc, engine := large(b, services, 50), ids.New(0), policy.New(policy.Limits{})
			rows := Full(db.Snapshot(), alloc, Settings{}).Layers[model.ClusterLayer]
			before := db.Snapshot()
			b.ReportAllocs()
			units, changed := 0, 0
			for n := 0; b.Loop(); n++ {
				changes, err := db.Apply(numbered("s00042", 42, 0, 49+n%2))
				if err != nil {
					b.Fatal(err)
				}
				work := workOf(changes)
				after := db.Snapshot()
				d := Update(before, after, alloc, engine, Settings{}, work)
				before = after
				if change := together(b, d)[model.ClusterLayer]; change != nil {
					alloc.Fold(rows, change, time.Time{})
					rows.Apply(change, model.Digest{})
					changed += change.Put.Len() + change.Remove.Len()
				}
				alloc.Advance(start)
				units += len(work.Units)
			}
			b.ReportMetric(float64(units)/float64(b.N), "units/op")
			b.ReportMetric(float64(changed)/float64(b.N), "rows/op")
		})
	}
}

// BenchmarkOneEndpointOf5000 changes one endpoint of a Service of 5,000: the whole Service is compiled again.
func BenchmarkOneEndpointOf5000(b *testing.B) {
	db, alloc, engine := large(b, 1, 5000), ids.New(0), policy.New(policy.Limits{})
	Full(db.Snapshot(), alloc, Settings{})
	before := db.Snapshot()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		changes, err := db.Apply(numbered("s00000", 0, 0, 99+n%2))
		if err != nil {
			b.Fatal(err)
		}
		after := db.Snapshot()
		Update(before, after, alloc, engine, Settings{}, workOf(changes))
		before = after
	}
}
