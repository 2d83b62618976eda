// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestMapsGrowUnderConnections: another size in the configuration loses no connection and no row, whenever the process
// ends on the way.
//
// Row 23: maps grow by configuration, and no connection is lost wherever that breaks off.
// Trap 35: a pinned map of another size is copied and exchanged, never made anew empty.
func TestMapsGrowUnderConnections(t *testing.T) {
	needTCX(t)
	larger := maps.Clone(small)
	larger[abi.Slots], larger[abi.Networks] = 4096, 4096
	begin := func(t *testing.T) (string, *testkit.NetNS, int) {
		t.Helper()
		dir := filepath.Join(testkit.BPFFS(t), "node")
		d := load(t, dir)
		ns, ifindex := newPort(t)
		ns.Do(t, func() { check(t, d.AttachPod(ifindex)) })
		putServices(t, d)
		verdict, _, err := d.RunFromPod(frame(t, model.TCP, "10.1.0.9:4000", "10.96.0.1:80", "S", 0), 0)
		check(t, err)
		if verdict != Pass {
			t.Fatalf("the connection did not begin: %v", verdict)
		}
		beginJudged(t, d)
		d.Close()
		return dir, ns, ifindex
	}
	grow := func(dir string, steps func(string) error) (*Dataplane, error) {
		return Load(Options{PinDir: dir, Capacities: larger, Flows: 8192, Affinities: 4096, Connections: 4096, steps: steps})
	}
	names := stepsOf(func(steps func(string) error) {
		dir, _, ifindex := begin(t)
		d, err := grow(dir, func(step string) error {
			from, to := attached(t, dir, ifindex)
			goesOn(t, from, to, connection(t, "10.1.0.9:4000"), "before "+step)
			isAnswered(t, to, "before "+step)
			return steps(step)
		})
		check(t, err)
		d.Close()
	})
	if len(names) < 9 {
		t.Fatalf("steps %v", names)
	}
	for _, step := range names {
		if !everyStep() && !slices.Contains([]string{"exchange for adopting programs", "copy flows", "exchanged pin flows_v2", "exchange programs"}, step) {
			continue
		}
		t.Run("killed at "+step, func(t *testing.T) {
			dir, ns, ifindex := begin(t)
			links, _ := linkIDs(t, dir)
			if _, err := grow(dir, killedAt(step)); !errors.Is(err, errKilled) {
				t.Fatalf("not killed: %v", err)
			}
			d, err := grow(dir, nil)
			check(t, err)
			t.Cleanup(d.Close)
			goesOn(t, d.program("from_pod"), d.program("to_pod"), connection(t, "10.1.0.9:4000"), "afterwards")
			isAnswered(t, d.program("to_pod"), "afterwards")
			after, _ := linkIDs(t, dir)
			if diff := cmp.Diff(links, after); diff != "" {
				t.Errorf("links were made anew: %s", diff)
			}
			for name, want := range map[string]uint32{abi.Slots.String(): 4096, abi.Networks.String(): 4096, flowsMap: 8192, connectionsMap: 4096, abi.Sets.String(): 64} {
				pinned, err := ebpf.LoadPinnedMap(filepath.Join(mapsDir(dir), name), nil)
				check(t, err)
				if got := pinned.MaxEntries(); got != want {
					t.Errorf("pinned map %s has room for %d, want %d", name, got, want)
				}
				pinned.Close()
			}
			if n, err := countEntries(d.Map(abi.Slots)); n != 4 || err != nil {
				t.Errorf("%d slots, %v; want 4", n, err)
			}
			ns.Do(t, func() { check(t, d.AttachPod(ifindex)) })
		})
	}
}

// beginJudged has a pod that is isolated send a datagram, whose answer passes by its entry alone.
func beginJudged(t *testing.T, d *Dataplane) {
	t.Helper()
	putPolicy(t, d)
	isolated := model.Verdict{VerdictKey: model.VerdictKey{RuleSet: 1, Identity: 1}, Action: model.ActionIsolate}
	testkit.PutPolicy(t, d, isolated)
	check(t, d.Judge(true))
	for _, packet := range [][]byte{
		frame(t, model.UDP, "10.1.0.9:4000", "10.1.0.1:53", "", 9), frame(t, model.TCP, "10.1.0.9:4000", "10.96.0.1:80", "A", 0),
	} {
		verdict, _, err := d.RunFromPod(packet, 0)
		check(t, err)
		if verdict != Pass {
			t.Fatalf("the pod may not send: %v", verdict)
		}
	}
}

// isAnswered fails the test unless the pod gets its answer.
func isAnswered(t *testing.T, to *ebpf.Program, when string) {
	t.Helper()
	for from, want := range map[string]Verdict{"10.1.0.1:53": Pass, "10.1.0.1:54": Drop} {
		verdict, _, err := run(to, frame(t, model.UDP, from, "10.1.0.9:4000", "", 9), 0)
		check(t, err)
		if verdict != want {
			t.Errorf("%s, a datagram from %s: %v, want %v", when, from, verdict, want)
		}
	}
}

// TestMapsShrinkIfWhatIsInUseFits and stay as they are otherwise, which is said.
func TestMapsShrinkIfWhatIsInUseFits(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	d := load(t, dir)
	for i := range uint32(40) {
		check(t, d.Map(abi.Slots).Put(abi.Encode(abi.SlotKey{Set: 1, Index: i}), i))
	}
	d.Close()
	for _, c := range []struct{ configured, want uint32 }{{50, 50}, {30, 50}, {64, 64}} {
		var said bytes.Buffer
		sizes := maps.Clone(small)
		sizes[abi.Slots] = c.configured
		d, err := Load(Options{PinDir: dir, Capacities: sizes, Flows: 1024, Log: slog.New(slog.NewTextHandler(&said, nil))})
		check(t, err)
		if got := d.Map(abi.Slots).MaxEntries(); got != c.want {
			t.Errorf("configured %d: room for %d, want %d", c.configured, got, c.want)
		}
		if n, err := countEntries(d.Map(abi.Slots)); n != 40 || err != nil {
			t.Errorf("configured %d: %d entries, %v; want 40", c.configured, n, err)
		}
		if got := strings.Contains(said.String(), "keeps its size"); got != (c.configured != c.want) {
			t.Errorf("configured %d: said %s", c.configured, said.String())
		}
		d.Close()
	}
}
