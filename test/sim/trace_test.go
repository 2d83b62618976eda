// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// lastEvents is how many events a failing seed prints.
const lastEvents = 60

// trace is the history of one world: a hash of all of it, and its last events for people.
type trace struct {
	hash  uint64
	count int
	last  []line
	// to, if set, gets every event as it happens.
	to io.Writer
}

type line struct {
	at        time.Time
	who, what string
	args      []any
}

func newTrace() trace { return trace{hash: 14695981039346656037} }

// add notes an event. The arguments are formatted only if someone wants to read them.
func (t *trace) add(at time.Time, who, what string, args ...any) {
	t.mixNumber(uint64(at.UnixNano()))
	t.mixText(who)
	t.mixText(what)
	for _, arg := range args {
		t.mix(arg)
	}
	l := line{at, who, what, args}
	if len(t.last) < lastEvents {
		t.last = append(t.last, l)
	} else {
		t.last[t.count%lastEvents] = l
	}
	t.count++
	if t.to != nil {
		fmt.Fprintln(t.to, l)
	}
}

func (t *trace) mix(arg any) {
	switch a := arg.(type) {
	case string:
		t.mixText(a)
	case int:
		t.mixNumber(uint64(a))
	case uint64:
		t.mixNumber(a)
	default:
		t.mixText(fmt.Sprint(a))
	}
}

// What follows is FNV-1a.

func (t *trace) mixBytes(b []byte) {
	for _, c := range b {
		t.hash = (t.hash ^ uint64(c)) * 1099511628211
	}
}

func (t *trace) mixText(s string) {
	for i := range len(s) {
		t.hash = (t.hash ^ uint64(s[i])) * 1099511628211
	}
}

func (t *trace) mixNumber(n uint64) { t.hash = (t.hash ^ n) * 1099511628211 }

func (l line) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-11s %s", clock(l.at), l.who, l.what)
	for _, arg := range l.args {
		fmt.Fprintf(&b, " %v", arg)
	}
	return b.String()
}

// tail returns the last events, oldest first.
func (t *trace) tail() string {
	var b strings.Builder
	for i := range t.last {
		fmt.Fprintln(&b, t.last[(t.count+i)%len(t.last)])
	}
	return b.String()
}
