// SPDX-License-Identifier: Apache-2.0

// Package streams notices when a stream of the bus is not what it should be: missing, gone back to an earlier state,
// nearly full, or with fewer copies than it was made with. It is pure: whoever leads asks the server for each stream
// once in a while and shows a Watch the answers.
//
// It promises one alarm per stream and kind, which stands until what it says is over; a stream that has gone back is
// told for HeldFor, since it looks well again at once.
package streams

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// State is how one stream stands, as the server has it.
type State struct {
	Name     string
	Missing  bool
	Messages uint64
	Bytes    uint64
	MaxBytes uint64 // 0 is no limit
	First    uint64 // the oldest message's sequence
	Last     uint64 // the newest message's sequence; it never falls while the stream is the same
	Oldest   time.Time
	Made     time.Time
	Copies   int // as configured
	// Leader is the server that takes what is appended; empty while there is none.
	Leader string
	// Lagging are servers whose copy is offline or behind.
	Lagging []string
}

// Kind is what an alarm is about.
type Kind string

// The kinds of alarms.
const (
	Missing    Kind = "stream_missing"
	RolledBack Kind = "stream_rolled_back"
	NearlyFull Kind = "stream_nearly_full"
	CopiesLost Kind = "stream_copies_lost"
	Leaderless Kind = "stream_leaderless"
)

// Kinds lists all kinds, for metrics.
var Kinds = []Kind{Missing, RolledBack, NearlyFull, CopiesLost, Leaderless}

// Alarm is something that an operator should look at. Text says what, why it matters and what to do.
type Alarm struct {
	Stream string
	Kind   Kind
	Text   string
	Since  time.Time
}

const (
	// HeldFor is how long it is told that a stream has gone back.
	HeldFor = 10 * time.Minute
	// fullShare is the share of its limit from which a stream that refuses what is new counts as nearly full.
	fullShare = 0.8
)

// Watch remembers how streams stood. The zero value is ready.
type Watch struct {
	seen   map[string]State
	alarms map[string]Alarm
}

// Look takes in how a stream stands, and returns the alarms that are new and those that are over.
func (w *Watch) Look(now time.Time, of schemas.Stream, is State) (raised, over []Alarm) {
	if w.seen == nil {
		w.seen, w.alarms = map[string]State{}, map[string]Alarm{}
	}
	was, known := w.seen[is.Name]
	for _, kind := range Kinds {
		key := string(kind) + " " + is.Name
		text := ""
		switch kind {
		case Missing:
			text = missing(is)
		case RolledBack:
			text = w.rolledBack(now, key, was, is, known)
		case NearlyFull:
			text = nearlyFull(of, is)
		case CopiesLost:
			text = copiesLost(is)
		case Leaderless:
			text = leaderless(is)
		}
		standing, stands := w.alarms[key]
		switch {
		case text != "" && (!stands || kind == RolledBack && text != standing.Text):
			w.alarms[key] = Alarm{Stream: is.Name, Kind: kind, Text: text, Since: now}
			raised = append(raised, w.alarms[key])
		case text != "":
			standing.Text = text
			w.alarms[key] = standing
		case stands:
			delete(w.alarms, key)
			over = append(over, standing)
		}
	}
	if !is.Missing && is.Leader != "" {
		w.seen[is.Name] = is // else the last is remembered: it tells whether what comes back is the same
	}
	return raised, over
}

// Alarms returns what stands, in order of streams and kinds.
func (w *Watch) Alarms() []Alarm {
	list := slices.Collect(maps.Values(w.alarms))
	slices.SortFunc(list, func(a, b Alarm) int { return strings.Compare(a.Stream+string(a.Kind), b.Stream+string(b.Kind)) })
	return list
}

// States returns how each stream stood last, in order of their names; those never seen are left out.
func (w *Watch) States() []State {
	list := slices.Collect(maps.Values(w.seen))
	slices.SortFunc(list, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func missing(is State) string {
	if !is.Missing {
		return ""
	}
	return fmt.Sprintf("stream %s is missing: nodes keep what they hold, but nothing new reaches them through it; "+
		"the service that writes it makes it anew and fills it from Kubernetes", is.Name)
}

func (w *Watch) rolledBack(now time.Time, key string, was, is State, known bool) string {
	if is.Missing || is.Leader == "" {
		return w.heldText(now, key)
	}
	switch {
	case known && !is.Made.Equal(was.Made):
		return fmt.Sprintf("stream %s was removed and made anew at %s, or restored from a backup: it is filled from Kubernetes again, "+
			"and nodes are compared with it; what audit could tell of before is gone", is.Name, is.Made.UTC().Format(time.RFC3339))
	case known && is.Last < was.Last:
		return fmt.Sprintf("stream %s went back from message %d to %d: a server lost what it had acknowledged, or an old backup was restored; "+
			"it is filled from Kubernetes again, and nodes are compared with it", is.Name, was.Last, is.Last)
	}
	return w.heldText(now, key)
}

// heldText is that of an alarm that is to stand for a while.
func (w *Watch) heldText(now time.Time, key string) string {
	if standing, stands := w.alarms[key]; stands && now.Sub(standing.Since) < HeldFor {
		return standing.Text
	}
	return ""
}

// nearlyFull is about streams that refuse what is new when they are full. The others forget what is oldest.
func nearlyFull(of schemas.Stream, is State) string {
	if is.Missing || !of.LastPerSubject || is.MaxBytes == 0 || float64(is.Bytes) < fullShare*float64(is.MaxBytes) {
		return ""
	}
	return fmt.Sprintf("stream %s is nearly full (%d of %d bytes): when it is full, objects that are new or grow are refused; "+
		"see docs/operations/bus.md, \"Resizing a stream\"", is.Name, is.Bytes, is.MaxBytes)
}

func copiesLost(is State) string {
	if is.Missing || len(is.Lagging) == 0 || is.Leader == "" {
		return ""
	}
	return fmt.Sprintf("stream %s has %d copies, those on %s are away or behind: one more lost may stop it; start these servers",
		is.Name, is.Copies, strings.Join(is.Lagging, " and "))
}

func leaderless(is State) string {
	if is.Missing || is.Leader != "" {
		return ""
	}
	return fmt.Sprintf("stream %s has no leader: most servers that have it are away, so it takes nothing new; nodes keep what they hold; "+
		"see docs/operations/bus.md, \"Quorum is lost\"", is.Name)
}
