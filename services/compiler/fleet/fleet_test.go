// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
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

func want(l model.Layer) model.Position { return wanted[l] }

func report(node string, cluster, own model.Position) *schemas.Applied {
	return &schemas.Applied{Node: node, Positions: []*schemas.Position{
		wire.PositionToProto(model.ClusterLayer, cluster), wire.PositionToProto(model.NodeLayer(node), own),
	}}
}

func TestWhyANodeIsBehind(t *testing.T) {
	cluster, own := want(model.ClusterLayer), want(model.NodeLayer("n1"))
	old := model.Position{Epoch: 1, Revision: 8, Digest: cluster.Digest}
	drifted := model.Position{Epoch: 1, Revision: 10, Digest: model.Digest{9, 9}}
	beyond := model.Position{Epoch: 1, Revision: 11, Digest: cluster.Digest}
	faulty := report("n1", old, own)
	faulty.Faults = []*schemas.Fault{{Text: "map backends_v1 is full"}}

	for _, test := range []struct {
		name   string
		report *schemas.Applied
		after  time.Duration
		behind model.Revision
		reason string
	}{
		{"converged", report("n1", cluster, own), time.Second, 0, ""},
		{"never reported", nil, 0, 0, "it has never reported"},
		{"behind", report("n1", old, own), time.Second, 2, "layer cluster is at revision 8 of 10"},
		{"drifted", report("n1", drifted, own), time.Second, 0, "something else writes its maps"},
		{"beyond", report("n1", beyond, own), time.Second, 0, "beyond the compiler's 10"},
		{"a fault says more than the revision", faulty, time.Second, 2, "map backends_v1 is full"},
		{"behind and silent", report("n1", old, own), 13 * time.Second, 2, "silent for 13s"},
		{"converged and silent", report("n1", cluster, own), time.Minute, 0, "silent for 1m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := New()
			f.Know(map[string]bool{"n1": true})
			if test.report != nil {
				if err := f.Report(test.report, start); err != nil {
					t.Fatal(err)
				}
			}
			p := f.Progress(want, start.Add(test.after))[0]
			if p.Behind != test.behind || !strings.Contains(p.Reason, test.reason) || p.Converged != (test.reason == "") {
				t.Errorf("behind %d, converged %v, reason %q; want %d and %q", p.Behind, p.Converged, p.Reason, test.behind, test.reason)
			}
		})
	}
}

func TestLatenciesAreThoseOfTheLastDeltas(t *testing.T) {
	f := New()
	for i := range 3000 {
		r := report("n1", model.Position{}, model.Position{})
		r.Deltas = []*schemas.AppliedDelta{{Latency: durationpb.New(time.Duration(i+1) * time.Millisecond)}}
		if err := f.Report(r, start); err != nil {
			t.Fatal(err)
		}
	}
	p := f.Progress(want, start)[0]
	if p.P50 != 2488*time.Millisecond || p.P99 != 2989*time.Millisecond {
		t.Errorf("p50 %s, p99 %s; want those of 1,977 to 3,000 ms", p.P50, p.P99)
	}
	if n := len(f.nodes["n1"].latencies.ring); n != maxLatencies {
		t.Errorf("%d latencies are kept, want %d", n, maxLatencies)
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
	if got := f.nodes["n1"].positions[model.ClusterLayer].Revision; got != 2 {
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
	f.Know(map[string]bool{"n1": true, "n2": true})
	for _, name := range []string{"n1", "n2"} {
		if err := f.Report(report(name, model.Position{}, model.Position{}), start); err != nil {
			t.Fatal(err)
		}
	}
	f.Know(map[string]bool{"n1": true})
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
	f.Know(map[string]bool{"n1": true})
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
	f.Know(map[string]bool{"n1": true})
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
