// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"testing"

	"github.com/deltaplane/deltaplane/schemas"
)

// slices are facts of n EndpointSlices with 50 endpoints each.
func slices50(n int) (facts []*schemas.Fact) {
	for i := range n {
		slice := &schemas.EndpointSlice{Service: fmt.Sprint("s", i), Ports: []*schemas.EndpointPort{{Name: "http", Port: 80}}}
		for j := range 50 {
			slice.Endpoints = append(slice.Endpoints, &schemas.SliceEndpoint{
				Address: []byte{10, byte(i >> 8), byte(i), byte(j)}, Ready: true, Serving: true, Node: fmt.Sprint("node-", j),
			})
		}
		facts = append(facts, &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: fmt.Sprint("s", i)},
			State:  &schemas.Fact_EndpointSlice{EndpointSlice: slice},
		})
	}
	return facts
}

func leading(kinds []string) *Core {
	c := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: 1})
	c.Lead(now, 1)
	return c
}

// BenchmarkLead is what it costs to take over when all is as it should be.
func BenchmarkLead(b *testing.B) {
	c := New(Options{Source: "test", Kinds: []string{"EndpointSlice"}, MaxDeleteShare: 1})
	facts := slices50(5000)
	for i, fact := range facts {
		c.Known(fact, uint64(i+1))
	}
	c.Step(now, List{Kinds: []string{"EndpointSlice"}, Facts: facts})
	for b.Loop() {
		c.complete = false
		if e := c.Lead(now, 1); len(e.Publish) != 1 {
			b.Fatalf("%d published, want Complete alone", len(e.Publish))
		}
	}
}

// BenchmarkListOf5000Slices is what a first list, and a later one with nothing new, cost.
func BenchmarkListOf5000Slices(b *testing.B) {
	in := List{Kinds: []string{"EndpointSlice"}, Facts: slices50(5000)}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			leading(in.Kinds).Step(now, in)
		}
	})
	b.Run("known", func(b *testing.B) {
		c := leading(in.Kinds)
		c.Step(now, in)
		for b.Loop() {
			c.Step(now, in)
		}
	})
}

// BenchmarkUpsert is what one change, and one that decides nothing, cost.
func BenchmarkUpsert(b *testing.B) {
	c, facts := leading(kinds), slices50(2)
	facts[1].Object = facts[0].GetObject()
	b.Run("change", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			c.Step(now, Upsert{facts[i%2]})
		}
	})
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			c.Step(now, Upsert{facts[0]})
		}
	})
}
