// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// cluster emits 5,000 Services of 50 endpoints each, then says so.
type cluster struct {
	list core.List
	still
}

func (c cluster) Run(ctx context.Context, _ map[string]bool, emit func(core.Input)) error {
	emit(c.list)
	<-ctx.Done()
	return nil
}

func bigCluster() cluster {
	l := core.List{Kinds: []string{"Service", "EndpointSlice"}}
	for i := range 5000 {
		name := fmt.Sprint("s", i)
		slice := &schemas.EndpointSlice{Service: name, Ports: []*schemas.EndpointPort{{Name: "http", Port: 8080}}}
		for j := range 50 {
			slice.Endpoints = append(slice.Endpoints, &schemas.SliceEndpoint{
				Address: []byte{10, byte(i >> 8), byte(i), byte(j)}, Ready: true, Serving: true, Node: fmt.Sprint("node-", j),
			})
		}
		l.Facts = append(l.Facts, &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "Service", Namespace: "a", Name: name},
			State:  &schemas.Fact_Service{Service: &schemas.Service{ClusterIps: [][]byte{{10, 96, byte(i >> 8), byte(i)}}}},
		}, &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: "a", Name: name + "-1"},
			State:  &schemas.Fact_EndpointSlice{EndpointSlice: slice},
		})
	}
	return cluster{list: l}
}

// BenchmarkStart is how long it takes from the start of a watcher until STATE is complete: with an empty STATE, and
// with one that has everything, as after a restart.
func BenchmarkStart(b *testing.B) {
	source := bigCluster()
	for _, restart := range []bool{false, true} {
		b.Run(map[bool]string{false: "empty", true: "restart"}[restart], func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				server, err := embedded.Start(embedded.Options{Dir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				if restart {
					untilComplete(b, server.URL(), source)
				}
				b.StartTimer()
				untilComplete(b, server.URL(), source)
				b.StopTimer()
				server.Shutdown()
				b.StartTimer()
			}
		})
	}
}

func untilComplete(b *testing.B, url string, source cluster) {
	b.Helper()
	w := start(b, url, func(w *service) {
		w.source, w.sourceName, w.kinds = source, "bench", source.list.Kinds
	})
	defer w.stop()
	w.complete(b)
}
