// SPDX-License-Identifier: Apache-2.0

// Package fair bounds what each of many may have done, so that one that asks without end takes nothing from the others.
//
// It promises that memory is bounded however many names there are: when there are too many, those that it has no room for
// share one bound.
package fair

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// most bounds the names that are told apart.
	most = 20_000
	// sweepEvery is how often those that have asked for nothing for a while are looked for.
	sweepEvery = time.Second
	// others is who has no room; it is nobody's name.
	others = ""
)

// Limiter is how often each may, by name.
type Limiter struct {
	every rate.Limit
	burst int

	mu    sync.Mutex
	each  map[string]*rate.Limiter
	swept time.Time
}

// New returns a Limiter that allows each so many times a second, and so many at once.
func New(perSecond rate.Limit, atOnce int) *Limiter {
	return &Limiter{every: perSecond, burst: atOnce, each: map[string]*rate.Limiter{}}
}

// Allow says whether somebody may now, and counts it.
func (l *Limiter) Allow(who string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.each) >= most && now.Sub(l.swept) > sweepEvery {
		l.swept = now
		maps.DeleteFunc(l.each, func(_ string, e *rate.Limiter) bool { return e.TokensAt(now) >= float64(l.burst) })
	}
	if len(l.each) >= most && l.each[who] == nil {
		who = others
	}
	e := l.each[who]
	if e == nil {
		e = rate.NewLimiter(l.every, l.burst)
		l.each[who] = e
	}
	return e.AllowN(now, 1)
}
