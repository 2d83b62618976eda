// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// BenchmarkMillionEndpoints takes in 10,000 services of 100 endpoints and compiles them: performance row 6. It
// reports what the compiler holds after it, and what it used from the system at most.
func BenchmarkMillionEndpoints(b *testing.B) {
	for b.Loop() {
		begun := time.Now()
		before := heap()
		w := newWorld(b, Options{})
		for i := range 10_000 {
			w.core.Facts(w.now, uint64(i), largeFacts(i, 100)...)
		}
		facts := time.Since(begun)
		w.core.CaughtUp(w.now)
		out := w.core.Facts(w.now, 10_001, complete())
		batches, bytes := 0, 0
		for out.Append != nil {
			batches++
			for _, r := range out.Append {
				bytes += len(r.Data)
			}
			out = w.core.Appended(w.now)
		}
		b.ReportMetric(facts.Seconds(), "s-facts")
		b.ReportMetric(time.Since(begun).Seconds()-facts.Seconds(), "s-compile")
		b.ReportMetric(float64(batches), "batches")
		b.ReportMetric(float64(bytes)/1e6, "MB-log")
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.Sys)/1e6, "MB-system")
		b.ReportMetric(float64(heap()-before)/1e6, "MB-held")
		if rows := w.core.Rows(); rows != 10_000*(2+1+100+100) {
			b.Fatalf("%d rows", rows)
		}
	}
}

// BenchmarkOneEndpointOfAMillion changes one endpoint there, from the fact to the delta.
func BenchmarkOneEndpointAmong10000Services(b *testing.B) {
	w := newWorld(b, Options{})
	for i := range 10_000 {
		w.core.Facts(w.now, uint64(i), largeFacts(i, 20)...)
	}
	w.core.CaughtUp(w.now)
	for out := w.core.Facts(w.now, 10_001, complete()); out.Append != nil; {
		out = w.core.Appended(w.now)
	}
	bytes, units := 0, w.core.Stats().Units
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		w.now = w.now.Add(time.Second)
		w.core.Facts(w.now, 1, largeFacts(42, 19+n%2)[1])
		w.now = w.now.Add(time.Second)
		out := w.core.step(w.now)
		for _, r := range out.Append {
			bytes += len(r.Data)
		}
		w.core.Appended(w.now)
	}
	b.ReportMetric(float64(bytes)/float64(b.N), "B-delta/op")
	b.ReportMetric(float64(w.core.Stats().Units-units)/float64(b.N), "units/op")
}

func largeFacts(i, count int) []*schemas.Fact {
	service := serviceFact(i)
	slice := sliceFact(i, 0, 0, start)
	m := slice.GetEndpointSlice()
	for e := range count {
		n := i*100 + e
		m.Endpoints = append(m.Endpoints, &schemas.SliceEndpoint{
			Address: []byte{11, byte(n >> 16), byte(n >> 8), byte(n)}, Ready: true, Serving: true,
			Node: fmt.Sprint("node-", n%5000), Zone: fmt.Sprint("zone-", n%3),
		})
	}
	return []*schemas.Fact{clone(service), clone(slice)}
}

// clone decodes a fact from its bytes, so that it shares no strings with others, as on the bus.
func clone(f *schemas.Fact) *schemas.Fact {
	var c schemas.Fact
	if err := proto.Unmarshal(marshal(f), &c); err != nil {
		panic(err)
	}
	return &c
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
