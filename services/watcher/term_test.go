// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

func TestBatchesFitTheBusAndKeepTheOrder(t *testing.T) {
	for name, test := range map[string]struct {
		count, bytes int
		want         []int // records in each batch
	}{
		"nothing":             {0, 0, nil},
		"one":                 {1, 10, []int{1}},
		"as many as fit":      {bus.MaxBatchMessages, 10, []int{bus.MaxBatchMessages}},
		"one more":            {bus.MaxBatchMessages + 1, 10, []int{bus.MaxBatchMessages, 1}},
		"as large as allowed": {9, batchBytes / 4, []int{4, 4, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var publications []core.Publication
			for i := range test.count {
				publications = append(publications, core.Publication{
					Fact: &schemas.Fact{Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "a", Name: fmt.Sprint(i)}}, Data: make([]byte, test.bytes),
				})
			}
			var got []int
			next, w := 0, &service{signer: &keyfile.Signer{}}
			for records := range batches(publications) {
				got = append(got, len(records))
				for _, r := range w.recordsOf(records) {
					if want := schemas.StateSubject("Pod", "a", fmt.Sprint(next)); r.Subject != want || r.TTL != schemas.TombstoneTTL {
						t.Fatalf("record %d is %s with TTL %v", next, r.Subject, r.TTL)
					}
					next++
				}
			}
			if !slices.Equal(got, test.want) || next != test.count {
				t.Errorf("batches of %v, want %v", got, test.want)
			}
		})
	}
}
