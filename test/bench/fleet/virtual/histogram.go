// SPDX-License-Identifier: Apache-2.0

package virtual

import (
	"math/bits"
	"time"
)

// Histogram counts durations in microseconds, each to within 1.6 %, so that millions of them cost nothing to keep and to
// hand on: a bucket for each number below 128, then 64 for each power of two.
type Histogram struct {
	Buckets []uint64
	Count   uint64
}

const (
	halfBits = 6
	half     = 1 << halfBits
)

func bucketOf(micros uint64) int {
	shift := max(0, bits.Len64(micros)-halfBits-1)
	return shift*half + int(micros>>shift)
}

// smallestIn is what bucketOf takes into a bucket first.
func smallestIn(bucket int) uint64 {
	shift := max(0, bucket/half-1)
	return uint64(bucket-shift*half) << shift
}

// Note counts one.
func (h *Histogram) Note(d time.Duration) {
	b := bucketOf(uint64(max(0, d.Microseconds())))
	for len(h.Buckets) <= b {
		h.Buckets = append(h.Buckets, 0)
	}
	h.Buckets[b]++
	h.Count++
}

// Add adds what others have counted.
func (h *Histogram) Add(other Histogram) {
	for len(h.Buckets) < len(other.Buckets) {
		h.Buckets = append(h.Buckets, 0)
	}
	for i, n := range other.Buckets {
		h.Buckets[i] += n
	}
	h.Count += other.Count
}

// At returns a quantile; nothing if there is none.
func (h Histogram) At(share float64) time.Duration {
	rank := uint64(share * float64(max(1, h.Count)-1))
	for i, n := range h.Buckets {
		if n > rank {
			return time.Duration(smallestIn(i)) * time.Microsecond
		}
		rank -= n
	}
	return 0
}
