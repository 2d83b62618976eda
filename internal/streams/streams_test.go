// SPDX-License-Identifier: Apache-2.0

package streams

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/schemas"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	made  = start.Add(-time.Hour)
)

func well() State {
	return State{Name: "STATE", Messages: 10, Bytes: 100, MaxBytes: 1000, Last: 50, Made: made, Copies: 3, Leader: "a"}
}

func kinds(alarms []Alarm) (list []Kind) {
	for _, a := range alarms {
		list = append(list, a.Kind)
	}
	return list
}

// Fault 5: a stream that is lost, or restored from an old backup, is named.
func TestWhatIsWrongWithAStreamIsNamed(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*State)
		want   Kind
		text   string
	}{
		{"missing", func(s *State) { *s = State{Name: "STATE", Missing: true} }, Missing, "is missing"},
		{"made anew", func(s *State) { s.Made, s.Last = start, 60 }, RolledBack, "made anew at 2026-01-01T00:00:00Z"},
		{"gone back", func(s *State) { s.Last = 49 }, RolledBack, "from message 50 to 49"},
		{"nearly full", func(s *State) { s.Bytes = 800 }, NearlyFull, "800 of 1000 bytes"},
		{"a copy is away", func(s *State) { s.Lagging = []string{"b", "c"} }, CopiesLost, "those on b and c"},
		{"no leader", func(s *State) { s.Leader, s.Lagging = "", []string{"b"} }, Leaderless, "has no leader"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w Watch
			if raised, over := w.Look(start, schemas.StateFacts, well()); len(raised)+len(over) != 0 {
				t.Fatalf("a stream that is well: %v, %v", raised, over)
			}
			is := well()
			test.change(&is)
			raised, _ := w.Look(start, schemas.StateFacts, is)
			if diff := cmp.Diff([]Kind{test.want}, kinds(raised)); diff != "" || !strings.Contains(raised[0].Text, test.text) {
				t.Fatalf("%v (-want +got):\n%s", raised, diff)
			}
			if again, _ := w.Look(start.Add(time.Second), schemas.StateFacts, is); len(again) != 0 {
				t.Errorf("told twice: %v", again)
			}
		})
	}
}

func TestAnAlarmStandsUntilItIsOver(t *testing.T) {
	var w Watch
	full := well()
	full.Bytes = 900
	w.Look(start, schemas.StateFacts, full)
	if diff := cmp.Diff([]Kind{NearlyFull}, kinds(w.Alarms())); diff != "" {
		t.Fatal(diff)
	}
	_, over := w.Look(start.Add(time.Minute), schemas.StateFacts, well())
	if diff := cmp.Diff([]Kind{NearlyFull}, kinds(over)); diff != "" || len(w.Alarms()) != 0 {
		t.Errorf("%v stand; over (-want +got):\n%s", w.Alarms(), diff)
	}
}

func TestAStreamThatWentBackIsToldForAWhile(t *testing.T) {
	var w Watch
	w.Look(start, schemas.StateFacts, well())
	w.Look(start, schemas.StateFacts, State{Name: "STATE", Missing: true})
	back := well()
	back.Made, back.Last = start, 3
	_, over := w.Look(start.Add(time.Second), schemas.StateFacts, back)
	if diff := cmp.Diff([]Kind{Missing}, kinds(over)); diff != "" {
		t.Error(diff)
	}
	back.Last = 7
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{HeldFor / 2, 1}, {HeldFor + time.Minute, 0}} {
		w.Look(start.Add(test.after), schemas.StateFacts, back)
		if got := len(w.Alarms()); got != test.want {
			t.Errorf("after %s %d alarms, want %d: %v", test.after, got, test.want, w.Alarms())
		}
	}
}

// A log forgets what is oldest: that it is full is as it should be.
func TestAFullLogIsWell(t *testing.T) {
	var w Watch
	log := well()
	log.Name, log.Bytes = "DELTA", 1000
	if raised, _ := w.Look(start, schemas.Deltas, log); len(raised) != 0 {
		t.Errorf("alarms: %v", raised)
	}
	if diff := cmp.Diff([]State{log}, w.States()); diff != "" {
		t.Error(diff)
	}
}
