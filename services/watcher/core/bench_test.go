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

// BenchmarkListOf5000Slices is what a first list, and a later one with nothing new, cost.
func BenchmarkListOf5000Slices(b *testing.B) {
	in := List{Kinds: []string{"EndpointSlice"}, Facts: slices50(5000)}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			New(Options{Source: "test", Kinds: in.Kinds, MaxDeleteShare: 1}).Step(now, in)
		}
	})
	b.Run("known", func(b *testing.B) {
		c := New(Options{Source: "test", Kinds: in.Kinds, MaxDeleteShare: 1})
		c.Step(now, in)
		for b.Loop() {
			c.Step(now, in)
		}
	})
}

// BenchmarkUpsert is what one change, and one that decides nothing, cost.
func BenchmarkUpsert(b *testing.B) {
	c, facts := New(Options{Source: "test", Kinds: kinds, MaxDeleteShare: 1}), slices50(2)
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
