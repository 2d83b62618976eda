// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// play is a misdeed, and the counter that tells of it; none where it has no effect.
type play struct {
	does    misdeed
	foundBy string
}

const (
	unsealedAtNode     = "programmer_unsealed_messages_total"
	repeatedDelta      = "programmer_deltas_repeated_total"
	repeatedHeartbeat  = "programmer_heartbeats_repeated_total"
	missingDelta       = "programmer_gaps_total"
	failedSync         = "programmer_syncs_failed_total"
	silenceAtNode      = `programmer_faults{kind="silence"}`
	writesAtNode       = "programmer_map_writes_total"
	unsealedAtCompiler = "compiler_unsealed_messages_total"
	brokenFacts        = `compiler_reads_broken_total{stream="STATE"}`
	brokenLog          = `compiler_reads_broken_total{stream="DELTA"}`
)

// plays are what is done to messages of each kind. An answer goes to a listener of its own: nothing overtakes it, and one
// that comes twice isn't heard twice. A checkpoint or a Hold that stands in the place of another is as good as that: the
// first of each is also the newest here.
var plays = map[kind][]play{
	aDelta: {
		{flip, unsealedAtNode}, {drop, missingDelta}, {twice, repeatedDelta}, {reorder, missingDelta}, {delay, missingDelta}, {replay, repeatedDelta},
	},
	aHeartbeat: {
		{flip, unsealedAtNode}, {twice, repeatedHeartbeat}, {reorder, repeatedHeartbeat}, {replay, repeatedHeartbeat},
	},
	anAnswer: {{flip, unsealedAtNode}, {drop, failedSync}, {twice, ""}, {replay, ""}},
	aFact: {
		{flip, unsealedAtCompiler}, {drop, brokenFacts}, {twice, brokenFacts}, {reorder, brokenFacts}, {delay, brokenFacts}, {replay, unsealedAtCompiler},
	},
	aCheckpoint: {
		{flip, unsealedAtCompiler}, {drop, brokenLog}, {twice, brokenLog}, {reorder, brokenLog}, {delay, brokenLog}, {replay, ""},
	},
	aHold: {
		{flip, unsealedAtCompiler}, {drop, brokenLog}, {twice, brokenLog}, {reorder, brokenLog}, {delay, brokenLog}, {replay, ""},
	},
}

// turn is how far a victim has come with the plays of its kind.
type turn struct {
	*victim
	rest   []play
	begun  bool
	found  bool
	before counts
	from   model.Revision // the newest when the misdeed was found
	since  time.Time
}

// step brings a turn on as far as it goes now, and says whether it is over.
func (w *town) step(t *turn) (over bool) {
	if len(t.rest) == 0 {
		return true
	}
	does := t.rest[0]
	switch {
	case !t.begun:
		t.before, t.since = t.counts(), time.Now()
		if t.before == nil {
			return false
		}
		t.plays(does.does, t.kind, 1)
		if t.startsToHear() {
			w.restart(t.victim)
			t.before = counts{}
		}
		t.begun, t.found = true, false
	case !t.found:
		if is := t.counts(); t.played() && is != nil && (does.foundBy == "" || is[does.foundBy] > t.before[does.foundBy]) {
			t.found, t.from = true, w.newest().Revision
		}
	case w.revision(t.victim) > t.from:
		w.t.Logf("%s of %s: found and mended in %v", does.does, t.kind, time.Since(t.since).Round(time.Millisecond))
		t.rest, t.begun = t.rest[1:], false
	}
	return false
}

// misbehave has each relay do to its victim all that there is, one after the other: a misdeed must be found out by name,
// and be overcome, before the next. Meanwhile the cluster changes.
func (w *town) misbehave() {
	w.t.Helper()
	var turns []*turn
	for _, v := range w.victims() {
		turns = append(turns, &turn{victim: v, rest: plays[v.kind]})
	}
	defer func() {
		for _, t := range turns {
			if len(t.rest) > 0 {
				w.t.Errorf("%s of %s, to %s: played %v, found %v by %q, from revision %d", t.rest[0].does, t.kind, t.name, t.played(), t.found, t.rest[0].foundBy, t.from)
			}
		}
	}()
	next := time.Now()
	testkit.Eventually(w.t, 15*soon, func() bool {
		if now := time.Now(); now.After(next) {
			next = now.Add(150 * time.Millisecond)
			w.change()
		}
		turns = slices.DeleteFunc(turns, w.step)
		return len(turns) == 0
	})
}

// A bus that flips, drops, repeats, reorders, delays and replays what it carries, of each kind that could change anything,
// between real services and a real server: it is counted by name, nodes hold nothing at any time that no compiler has led
// them to, and they come to what the others hold. Who takes over then changes nothing.
//
// Promise P5: a node that hears no heartbeat says so.
// Promise P7: a bus in other hands changes nothing.
// Fault 1: deltas, heartbeats, answers, facts and the log's records that are lost, come twice, late, or in another order.
// Fault 13: flipped and old messages of every kind.
func TestABusThatMisbehavesIsFoundOut(t *testing.T) {
	w := newTown(t)
	w.misbehave()
	w.agree()
	testkit.Eventually(t, 2*soon, func() bool { return w.deaf.counts()[silenceAtNode] == 1 })
	w.takeOver()
	w.change()
	w.agree()
	w.mu.Lock()
	defer w.mu.Unlock()
	for held, who := range w.seen {
		if !w.ledTo(held) {
			t.Errorf("%s held layer %s at %v, to which no compiler had led", who, held.layer, held.at)
		}
	}
	if len(w.seen) < 10 {
		t.Errorf("only %d places of layers were seen on nodes", len(w.seen))
	}
}

// takeOver stops the compiler that leads: another one does then, and no node writes anything for it.
func (w *town) takeOver() {
	w.t.Helper()
	before := counts{}
	for _, v := range w.nodeVictims() {
		before[v.name] = v.counts()[writesAtNode]
	}
	epoch := w.newest().Epoch
	w.fact.stop()
	testkit.Eventually(w.t, 2*soon, func() bool {
		beat, of := w.beats()
		return of > epoch && beat > 1 // a node that hears them has heard one
	})
	for _, v := range w.nodeVictims() {
		if after := v.counts()[writesAtNode]; after != before[v.name] {
			w.t.Errorf("another compiler takes over, and %s writes %v entries", v.name, after-before[v.name])
		}
	}
}

// ask asks the leader for something, and wants it done.
func (w *town) ask(subject string, request proto.Message, reply interface {
	proto.Message
	GetDone() bool
},
) {
	w.t.Helper()
	testkit.Eventually(w.t, soon, func() bool {
		data, err := w.conn.Request(w.t.Context(), subject, encode(w.t, request))
		return err == nil && proto.Unmarshal(data, reply) == nil && reply.GetDone()
	})
}

// deafen has a node hear no heartbeat at all.
func (v *victim) deafen() { v.plays(drop, aHeartbeat, math.MaxInt) }

// rollBackAndResume leaves Holds in the log.
func (w *town) rollBackAndResume() {
	w.ask(schemas.SubjectRollback, &schemas.RollbackRequest{Revision: uint64(w.newest().Revision), By: "ann"}, &schemas.RollbackReply{})
	w.ask(schemas.SubjectResume, &schemas.ResumeRequest{By: "ann"}, &schemas.ResumeReply{})
}
