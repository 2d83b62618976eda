// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func TestABucketHoldsWhatEndsInIt(t *testing.T) {
	for i := range buckets - 1 {
		if at, next := bucketOf(endOf(i)), bucketOf(endOf(i)+time.Microsecond); at != i || next != i+1 {
			t.Fatalf("bucket %d ends at %s, which is in bucket %d, and a microsecond more in %d", i, endOf(i), at, next)
		}
	}
}

func TestQuantilesAreAtMostAnEighthTooHigh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "latency"))
		var l latencies
		l.add(d)
		p50, p99 := l.quantiles()
		if p50 != p99 || p50 < d || p50 > max(leastLatency, d+d/perOctave+leastLatency) {
			t.Fatalf("of %s: p50 %s, p99 %s", d, p50, p99)
		}
	})
}

func TestLatenciesAreThoseOfTheLastDeltas(t *testing.T) {
	var l latencies
	for range 5 * generation {
		l.add(time.Minute)
	}
	for range 2 * generation {
		l.add(time.Millisecond)
	}
	if p50, p99 := l.quantiles(); p50 > 2*time.Millisecond || p99 != p50 {
		t.Errorf("p50 %s, p99 %s; the last ones all took a millisecond", p50, p99)
	}
	for range 30 {
		l.add(time.Second)
	}
	if p50, p99 := l.quantiles(); p50 > 2*time.Millisecond || p99 < time.Second {
		t.Errorf("p50 %s, p99 %s; 30 in 1,000 took a second", p50, p99)
	}
}

// Fault 2: a compiler that has only begun to listen knows by a node's whole report how long deltas took before, and counts
// none of them twice.
func TestLatenciesAreKnownToACompilerThatHasOnlyBegun(t *testing.T) {
	whole := func() *schemas.Applied {
		r := report("n1", wanted[model.ClusterLayer], wanted[model.NodeLayer("n1")])
		r.LatencyMicros = []uint32{6000, 6000, 6000}
		r.Deltas = []*schemas.AppliedDelta{{Layer: "cluster", Latency: durationpb.New(6 * time.Millisecond)}}
		return r
	}
	f := New()
	for range 3 {
		if err := f.Report(whole(), start); err != nil {
			t.Fatal(err)
		}
	}
	if p50, _ := f.Latency(); p50 < 6*time.Millisecond || p50 > 7*time.Millisecond {
		t.Errorf("p50 is %s, want 6 ms", p50)
	}
	if n := f.nodes["n1"].latencies.n; n != 5 {
		t.Errorf("%d latencies are counted, want the 3 of the first report and those of two deltas", n)
	}
}
