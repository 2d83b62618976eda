// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"math/bits"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// Latencies are counted in buckets: eight to each power of two, so that a quantile is at most an eighth too high. The
// first ends at leastLatency, the last holds all above about an hour.
const (
	leastLatency = 128 * time.Microsecond
	perOctave    = 8
	octaves      = 25
	buckets      = 1 + perOctave*octaves
	// A node's latencies are those of its last generation to 2 × generation deltas.
	generation = 512
)

// histogram counts latencies.
type histogram [buckets]uint32

// latencies are the last ones of one node.
type latencies struct {
	now, before *histogram // nil until there are any
	n           int        // in now
}

// begin takes in a node's last ones, in microseconds, and says so, unless some are known. So a compiler that has only begun
// to listen knows them too.
func (l *latencies) begin(micros []uint32) bool {
	if l.now != nil {
		return false
	}
	for _, n := range micros[:min(len(micros), schemas.MaxLatencies)] {
		l.add(time.Duration(n) * time.Microsecond)
	}
	return l.now != nil
}

func (l *latencies) add(d time.Duration) {
	if d <= 0 {
		return
	}
	if l.now == nil || l.n == generation {
		if l.before == nil {
			l.before = new(histogram)
		}
		l.now, l.before = l.before, l.now
		*l.now, l.n = histogram{}, 0
	}
	l.now[bucketOf(d)]++
	l.n++
}

// into adds what is counted to h.
func (l *latencies) into(h *histogram) {
	for _, part := range []*histogram{l.now, l.before} {
		if part == nil {
			continue
		}
		for i, n := range part {
			h[i] += n
		}
	}
}

func (l *latencies) quantiles() (p50, p99 time.Duration) {
	if l.now == nil {
		return 0, 0
	}
	var h histogram
	l.into(&h)
	return h.quantiles()
}

// quantiles returns the upper ends of the buckets that they are in; 0 if nothing is counted.
func (h *histogram) quantiles() (p50, p99 time.Duration) {
	var total uint64
	for _, n := range h {
		total += uint64(n)
	}
	if total == 0 {
		return 0, 0
	}
	return h.at((total + 1) / 2), h.at((total*99 + 99) / 100)
}

// at returns the end of the bucket of the n-th latency, counted from 1 in order of size.
func (h *histogram) at(n uint64) time.Duration {
	var passed uint64
	for i, count := range h {
		if passed += uint64(count); passed >= n {
			return endOf(i)
		}
	}
	return endOf(buckets - 1)
}

func bucketOf(d time.Duration) int {
	n := uint64((d - 1) / (leastLatency / perOctave))
	if n < perOctave {
		return 0
	}
	octave := bits.Len64(n/perOctave) - 1
	return min(1+octave*perOctave+int(n>>octave)-perOctave, buckets-1)
}

// endOf returns the longest latency that is in a bucket.
func endOf(bucket int) time.Duration {
	if bucket == 0 {
		return leastLatency
	}
	octave, eighth := (bucket-1)/perOctave, (bucket-1)%perOctave
	return leastLatency * time.Duration(1<<octave) * time.Duration(perOctave+eighth+1) / perOctave
}
