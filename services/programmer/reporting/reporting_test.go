// SPDX-License-Identifier: Apache-2.0

package reporting

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// node is named like a large cluster's, and at a revision of a cluster that has lived for a while.
const node = "ip-10-123-45-67.eu-central-1.compute.internal"

func idle() core.Report {
	at := model.Position{Epoch: 41, Revision: 812_341, Digest: model.Digest{1 << 60, 1 << 61}}
	return core.Report{Idle: true, Positions: map[model.Layer]model.Position{model.ClusterLayer: at, model.NodeLayer(node): at}}
}

func uses(entries uint64) (uses []*schemas.MapUse) {
	for m := range abi.MapCount {
		uses = append(uses, &schemas.MapUse{Name: m.String(), Entries: entries, Capacity: 1 << 20})
	}
	return uses
}

var drops = map[string]uint64{"no_backend": 12, "policy_denied": 123_456}

func holds(entries uint64) Holds {
	return Holds{Uses: uses(entries), Drops: drops, External: &schemas.External{Device: "deltaplane0", Port: 8475}}
}

// Of what an idle node says a day's worth must be small: 5,000 nodes say it every 10 s.
func TestWhatAnIdleNodeReportsInAnHour(t *testing.T) {
	w := Writer{Node: node, MapsKind: "kernel"}
	bytes := 0
	for at := time.Duration(0); at < time.Hour; at += 10 * time.Second {
		bytes += proto.Size(w.Write(start.Add(at), idle(), holds(7)))
	}
	const budget = 360 * 350 // 360 reports of 350 bytes
	t.Logf("%d bytes an hour, %d a report", bytes, bytes/360)
	if bytes > budget {
		t.Errorf("%d bytes an hour, want at most %d", bytes, budget)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	news := idle()
	news.Idle = false
	anew := idle()
	anew.Whole = true
	otherwise := holds(7)
	otherwise.External = &schemas.External{Masqueraded: "--tunnel-port is 0"}
	for _, test := range []struct {
		name   string
		report core.Report
		holds  Holds
		after  time.Duration
		lost   bool
		left   bool
	}{
		{"nothing new", idle(), holds(7), 10 * time.Second, false, true},
		{"a map is fuller", idle(), holds(8), 10 * time.Second, false, false},
		{"nothing goes to other nodes", idle(), otherwise, 10 * time.Second, false, false},
		{"news", news, holds(7), 10 * time.Second, false, false},
		{"after a while", idle(), holds(7), WholeEvery, false, false},
		{"another compiler leads", anew, holds(7), 10 * time.Second, false, false},
		{"the report before was lost", idle(), holds(7), 10 * time.Second, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := Writer{Node: node}
			if first := w.Write(start, idle(), holds(7)); first.GetAsBefore() || len(first.GetMaps()) != int(abi.MapCount) || len(first.GetDrops()) != 2 {
				t.Errorf("the first report leaves something out: %v", first)
			}
			if test.lost {
				w.Lost()
			}
			got := w.Write(start.Add(test.after), test.report, test.holds)
			if got.GetAsBefore() != test.left || (len(got.GetMaps()) == 0) != test.left || (len(got.GetDrops()) == 0) != test.left || (got.GetExternal() == nil) != test.left {
				t.Errorf("left out: %v, want %v: %v", got.GetAsBefore(), test.left, strings.TrimSpace(got.String()))
			}
		})
	}
}

// A compiler that has only begun to listen learns how long deltas took before: from what an idle node says, when it says all.
func TestTheLastLatenciesAreToldAgain(t *testing.T) {
	w := Writer{Node: node}
	news := idle()
	news.Idle = false
	for i := range 100 {
		news.Deltas = append(news.Deltas, core.AppliedDelta{Layer: model.ClusterLayer, Latency: time.Duration(i+1) * time.Millisecond})
	}
	if got := w.Write(start, news, holds(7)); len(got.GetLatencyMicros()) > 0 || len(got.GetDeltas()) != 100 {
		t.Errorf("with news latencies are told twice: %v", got)
	}
	if got := w.Write(start.Add(10*time.Second), idle(), holds(7)); len(got.GetLatencyMicros()) > 0 {
		t.Errorf("a report that leaves out what is as before has latencies: %v", got)
	}
	anew := idle()
	anew.Whole = true
	got := w.Write(start.Add(20*time.Second), anew, holds(7)).GetLatencyMicros()
	if len(got) != schemas.MaxLatencies || got[0] != 37_000 || got[63] != 100_000 {
		t.Errorf("got %d latencies, %v, want the last 64 of 100, in microseconds", len(got), got)
	}
}
