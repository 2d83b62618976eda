// SPDX-License-Identifier: Apache-2.0

package virtual

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAHistogramKnowsDurationsToWithinAFewPercent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(time.Hour/time.Microsecond)).Draw(t, "µs")) * time.Microsecond
		var h Histogram
		h.Note(d)
		if got := h.At(0.5); got > d || d-got > d/50 {
			t.Fatalf("%s is kept as %s", d, got)
		}
	})
}

func TestAHistogramOfManyKnowsItsQuantiles(t *testing.T) {
	var all, some Histogram
	for i := range 1000 {
		some = Histogram{}
		some.Note(time.Duration(i) * time.Millisecond)
		all.Add(some)
	}
	for share, want := range map[float64]time.Duration{0: 0, 0.5: 499 * time.Millisecond, 0.99: 989 * time.Millisecond, 1: 999 * time.Millisecond} {
		if got := all.At(share); got > want || want-got > want/50 {
			t.Errorf("%v: got %s, want about %s", share, got, want)
		}
	}
}
