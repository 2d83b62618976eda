// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	wanted = map[model.Layer]model.Position{
		model.ClusterLayer:    {Epoch: 1, Revision: 10, Digest: model.Digest{1, 2}},
		model.NodeLayer("n1"): {Epoch: 1, Revision: 7, Digest: model.Digest{3, 4}},
	}
)

// want has the newest revisions committed at the start, and none since.
var want = Wanted{
	Position: func(l model.Layer) model.Position { return wanted[l] },
	Since:    func(model.Layer, model.Revision) time.Time { return start },
}

func report(node string, cluster, own model.Position) *schemas.Applied {
	return &schemas.Applied{Node: node, Positions: []*schemas.Position{
		wire.PositionToProto(model.ClusterLayer, cluster), wire.PositionToProto(model.NodeLayer(node), own),
	}}
}

// Promise P5: a node that lacks a revision, holds other rows or says nothing is named with the reason, in 2 s or less
// after what it lacks was committed.
// Fault 8: the node that lags is named, and how far it is.
func TestWhyANodeIsBehind(t *testing.T) {
	cluster, own := wanted[model.ClusterLayer], wanted[model.NodeLayer("n1")]
	old := model.Position{Epoch: 1, Revision: 8, Digest: cluster.Digest}
	drifted := model.Position{Epoch: 1, Revision: 10, Digest: model.Digest{9, 9}}
	beyond := model.Position{Epoch: 1, Revision: 11, Digest: cluster.Digest}
	with := func(r *schemas.Applied, kind, text string) *schemas.Applied {
		r.Faults = []*schemas.Fault{{Kind: kind, Text: text}}
		return r
	}

	for _, test := range []struct {
		name     string
		report   *schemas.Applied
		after    time.Duration
		standing Standing
		behind   model.Revision
		reason   string
	}{
		{"converged", report("n1", cluster, own), time.Second, Converged, 0, ""},
		{"never reported", nil, 0, Behind, 10, "it has never reported"},
		{"just committed", report("n1", old, own), time.Second, Updating, 2, "layer cluster is at revision 8 of 10"},
		{"behind", report("n1", old, own), UpdatingFor + 1, Behind, 2, "layer cluster is at revision 8 of 10"},
		{"drifted", report("n1", drifted, own), time.Second, Behind, 0, "something else writes its maps"},
		{"beyond", report("n1", beyond, own), time.Second, Behind, 0, "beyond the compiler's 10"},
		{"a fault says more than the revision", with(report("n1", old, own), "capacity", "map backends is full"), time.Second, Behind, 2, "map backends is full"},
		{"a fault of a node that lacks nothing", with(report("n1", cluster, own), "hook", "no cgroup"), time.Second, Behind, 0, "no cgroup"},
		{"a warning", with(report("n1", cluster, own), "pressure", "nearly full"), time.Second, Converged, 0, ""},
		{"behind and silent", report("n1", old, own), quietAfter + time.Second, Behind, 2, "silent for 5s"},
		{"converged and silent", report("n1", cluster, own), time.Minute, Behind, 0, "silent for 1m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := New()
			f.Know(map[string]bool{"n1": false})
			if test.report != nil {
				if err := f.Report(test.report, start); err != nil {
					t.Fatal(err)
				}
			}
			p := f.Progress(want, start.Add(test.after))[0]
			if p.Behind != test.behind || !strings.Contains(p.Reason, test.reason) || p.Standing != test.standing || p.Drifted != (test.name == "drifted") {
				t.Errorf("behind %d, %s, reason %q, drifted %v; want %d, %s and %q", p.Behind, Standings[p.Standing], p.Reason, p.Drifted,
					test.behind, Standings[test.standing], test.reason)
			}
			if counts := f.Counts(want, start.Add(test.after)); counts[test.standing] != 1 {
				t.Errorf("counted as %v", counts)
			}
		})
	}
}

func TestNobodyWaitsForALostNode(t *testing.T) {
	f := New()
	f.Know(map[string]bool{"n1": true, "n2": false, "n3": true})
	for _, name := range []string{"n1", "n2"} {
		if err := f.Report(report(name, model.Position{}, model.Position{}), start); err != nil {
			t.Fatal(err)
		}
	}
	at := start.Add(missedAfter)
	if diff := cmp.Diff([]string{"n1", "n2"}, f.Lacking(10, want, at)); diff != "" {
		t.Errorf("n1's kubelet is away, its programmer isn't (-want +got):\n%s", diff)
	}
	at = at.Add(time.Second)
	if diff := cmp.Diff([]string{"n2"}, f.Lacking(10, want, at)); diff != "" {
		t.Errorf("n1 and n3 are away (-want +got):\n%s", diff)
	}
	if got := f.Counts(want, at); got[Lost] != 2 || got[Behind] != 1 {
		t.Errorf("counted as %v", got)
	}
	if got := f.Progress(want, at)[0].Reason; !strings.Contains(got, "Lease has expired") {
		t.Errorf("n1: %q", got)
	}
}

func TestWhoLacksARevision(t *testing.T) {
	at := func(cluster, own model.Revision) *schemas.Applied {
		position := func(l model.Layer, r model.Revision) model.Position {
			p := wanted[l]
			if p.Revision != r {
				p.Digest = model.Digest{uint64(r)}
			}
			p.Revision = r
			return p
		}
		return report("n1", position(model.ClusterLayer, cluster), position(model.NodeLayer("n1"), own))
	}
	for _, test := range []struct {
		name     string
		report   *schemas.Applied
		revision model.Revision
		lacks    bool
	}{
		{"the newest of both", at(10, 7), 10, false},
		{"an older one is asked for", at(9, 7), 9, false},
		{"the cluster layer is older", at(8, 7), 9, true},
		{"its own layer is older", at(10, 5), 9, true},
		{"its own layer is older, but not than what is asked for", at(10, 5), 5, false},
		{"the rows are others", report("n1", model.Position{Revision: 10}, wanted[model.NodeLayer("n1")]), 10, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := New()
			if err := f.Report(test.report, start); err != nil {
				t.Fatal(err)
			}
			if got := len(f.Lacking(test.revision, want, start)) == 1; got != test.lacks {
				t.Errorf("revision %d is lacking: %v", test.revision, got)
			}
		})
	}
}

func TestWhatANodeHoldsIsWhatItSaid(t *testing.T) {
	f := New()
	own := model.NodeLayer("n1")
	if err := f.Report(report("n1", wanted[model.ClusterLayer], model.Position{Revision: 6}), start); err != nil {
		t.Fatal(err)
	}
	if !f.Holds("n1", model.ClusterLayer, wanted[model.ClusterLayer]) || f.Holds("n1", own, wanted[own]) || f.Holds("n2", own, wanted[own]) {
		t.Error("n1 said that it has the cluster layer, and nothing else was said")
	}
	other := wanted[own]
	other.Digest = wanted[model.ClusterLayer].Digest
	if err := f.Report(report("n1", wanted[model.ClusterLayer], other), start); err != nil {
		t.Fatal(err)
	}
	if other == wanted[own] || f.Holds("n1", own, wanted[own]) {
		t.Error("n1 said that it has the revision, and other rows")
	}
}

func TestOlderReportDoesNotReplaceANewerOne(t *testing.T) {
	f := New()
	for _, revision := range []model.Revision{2, 1} {
		r := report("n1", model.Position{Revision: revision}, model.Position{})
		r.Sent = timestamppb.New(start.Add(time.Duration(revision) * time.Second))
		if err := f.Report(r, start); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.nodes["n1"].positions[0].Revision; got != 2 {
		t.Errorf("the node counts as at revision %d, want 2", got)
	}
}

// A node begins with a clock that is years ahead, sets it right, and goes on to report.
func TestANodeWhoseClockGoesBackIsHeard(t *testing.T) {
	f := New()
	tell := func(revision model.Revision, sent, now time.Time) {
		t.Helper()
		r := report("n1", model.Position{Revision: revision}, model.Position{})
		r.Sent = timestamppb.New(sent)
		if err := f.Report(r, now); err != nil {
			t.Fatal(err)
		}
	}
	tell(1, start.AddDate(70, 0, 0), start)
	for after := 10 * time.Second; after < SilentAfter; after += 10 * time.Second {
		tell(2, start.Add(after), start.Add(after))
	}
	if got := f.nodes["n1"].positions[0].Revision; got != 2 {
		t.Errorf("the node counts as at revision %d, want 2", got)
	}
}

func TestNobodyWaitsForARemovedNode(t *testing.T) {
	names := func(f *Fleet) (names []string) {
		for _, p := range f.Progress(want, start) {
			names = append(names, p.Node)
		}
		return names
	}
	f := New()
	f.Know(map[string]bool{"n1": false, "n2": false})
	for _, name := range []string{"n1", "n2"} {
		if err := f.Report(report(name, model.Position{}, model.Position{}), start); err != nil {
			t.Fatal(err)
		}
	}
	f.Know(map[string]bool{"n1": false})
	if diff := cmp.Diff([]string{"n1"}, names(f)); diff != "" {
		t.Errorf("n2 was removed (-want +got):\n%s", diff)
	}
	f.Forget(start, time.Hour)
	says := func(at time.Duration, want ...string) {
		t.Helper()
		if err := f.Report(report("n2", model.Position{}, model.Position{}), start.Add(at)); err != nil {
			t.Fatal(err)
		}
		f.Forget(start.Add(at), time.Hour)
		if diff := cmp.Diff(want, names(f)); diff != "" {
			t.Errorf("n2 reports %v after it was removed (-want +got):\n%s", at, diff)
		}
	}
	says(time.Second, "n1")
	says(SilentAfter+1, "n1")
	says(SilentAfter+2, "n1", "n2")
	f.Forget(start.Add(3*SilentAfter), time.Hour)
	if diff := cmp.Diff([]string{"n1"}, names(f)); diff != "" {
		t.Errorf("n2 fell silent (-want +got):\n%s", diff)
	}
	f.Know(map[string]bool{})
	f.Know(map[string]bool{"n1": false})
	if err := f.Report(report("n1", model.Position{}, model.Position{}), start); err != nil || f.Progress(want, start)[0].Report == nil {
		t.Errorf("n1 is back and nobody listens (%v)", err)
	}
}

func TestWithoutNodesTheSilentAreNamed(t *testing.T) {
	f := New()
	f.Know(nil)
	if err := f.Report(report("n1", model.Position{}, model.Position{}), start); err != nil {
		t.Fatal(err)
	}
	f.Forget(start.Add(time.Hour), time.Hour)
	if got := f.Progress(want, start.Add(time.Hour)); len(got) != 1 || !strings.HasPrefix(got[0].Reason, "silent for 1h0m0s") {
		t.Errorf("got %+v, want n1, silent for an hour", got)
	}
}

func TestStrangersAreBoundedAndForgotten(t *testing.T) {
	f := New()
	f.Know(map[string]bool{"n1": false})
	var refused int
	for i := range MaxStrangers + 10 {
		if f.Report(report(fmt.Sprint("stranger-", i), model.Position{}, model.Position{}), start) != nil {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d strangers were refused, want 10", refused)
	}
	if err := f.Report(report("n1", model.Position{}, model.Position{}), start); err != nil {
		t.Errorf("a known node was refused too: %v", err)
	}
	f.Forget(start.Add(SilentAfter+1), time.Hour)
	if got := f.Progress(want, start); len(got) != 1 || got[0].Node != "n1" {
		t.Errorf("when they are silent there are %d nodes, want n1 alone", len(got))
	}
	if f.strangers != 0 {
		t.Errorf("%d strangers are counted, want 0", f.strangers)
	}
}

func TestForeignReportsAreRefusedByName(t *testing.T) {
	for _, bad := range []*schemas.Applied{
		{}, {Node: strings.Repeat("x", 300)}, {Node: "n1", Positions: []*schemas.Position{{Layer: "galaxy"}}},
	} {
		if err := New().Report(bad, start); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestWhatAReportLeavesOutIsAsBefore(t *testing.T) {
	f := New()
	first := report("n1", wanted[model.ClusterLayer], wanted[model.NodeLayer("n1")])
	first.Maps, first.Drops = []*schemas.MapUse{{Name: "backends", Entries: 3}}, map[string]uint64{"no_backend": 2}
	first.External = &schemas.External{Device: "deltaplane0\x1b", Masqueraded: strings.Repeat("why", maxText)}
	brief := report("n1", wanted[model.ClusterLayer], wanted[model.NodeLayer("n1")])
	brief.AsBefore = true
	for i, r := range []*schemas.Applied{first, brief} {
		r.Sent = timestamppb.New(start.Add(time.Duration(i) * time.Second))
		if err := f.Report(r, start); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.Progress(want, start)[0].Report; got.GetMaps()[0].GetEntries() != 3 || got.GetDrops()["no_backend"] != 2 {
		t.Errorf("the node is known by %v", got)
	} else if e := got.GetExternal(); e.GetDevice() == "" || strings.Contains(e.GetDevice(), "\x1b") || len(e.GetMasqueraded()) > maxText {
		t.Errorf("its traffic from outside is told as %.100v", e)
	}
}

// Fault 13: a node that floods is named, until a while after it has stopped.
func TestANodeThatFloodsIsNamed(t *testing.T) {
	f := New()
	if err := f.Report(report("n1", wanted[model.ClusterLayer], wanted[model.NodeLayer("n1")]), start); err != nil {
		t.Fatal(err)
	}
	f.Flooded("n1", start)
	f.Flooded("of nobody", start)
	if p := f.Progress(want, start)[0]; p.Standing != Behind || !strings.Contains(p.Reason, "floods") {
		t.Errorf("it is %s: %q", Standings[p.Standing], p.Reason)
	}
	at := start.Add(floodedFor + 1)
	if err := f.Report(report("n1", wanted[model.ClusterLayer], wanted[model.NodeLayer("n1")]), at); err != nil {
		t.Fatal(err)
	}
	if p := f.Progress(want, at)[0]; p.Standing != Converged {
		t.Errorf("afterwards it is %s: %q", Standings[p.Standing], p.Reason)
	}
}

// Fault 13: what a node says of itself is bounded, and writes nothing else on people's terminals.
func TestWhatIsKeptOfAReportIsBoundedAndPrintable(t *testing.T) {
	f, r := New(), report("n1", wanted[model.ClusterLayer], model.Position{})
	r.MapsKind = "kernel\x1b[2J"
	r.Drops = map[string]uint64{}
	for i := range 20_000 {
		r.Maps = append(r.Maps, &schemas.MapUse{Name: fmt.Sprint("map ", i)})
		r.Drops[fmt.Sprint("reason ", i)] = 1
		r.Faults = append(r.Faults, &schemas.Fault{Kind: "map\u009b", Text: "all is well\r\x1b[32m" + strings.Repeat("!", 1000)})
	}
	if err := f.Report(r, start); err != nil {
		t.Fatal(err)
	}
	kept, err := prototext.MarshalOptions{}.Marshal(f.nodes["n1"].report)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) > 64<<10 || strings.Contains(string(kept), `\x1b`) || strings.Contains(string(kept), `\r`) || strings.Contains(string(kept), `\u009b`) {
		t.Errorf("%d bytes are kept: %.300s", len(kept), kept)
	}
	few := report("n1", wanted[model.ClusterLayer], model.Position{})
	few.Drops = map[string]uint64{"policy": 3, "a\x1b": 4}
	if err := f.Report(few, start); err != nil || few.GetDrops()["policy"] != 3 || few.GetDrops()["a?"] != 4 || len(few.GetDrops()) != 2 {
		t.Errorf("drops %v, %v", few.GetDrops(), err)
	}
}
