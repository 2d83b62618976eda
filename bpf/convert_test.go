// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// TestBackendsOfTheEarlierLayoutAreConvertedUnderConnections: the version before wrote backends_v2. Whenever the process
// ends on the way, no program sees fewer backends than there are, and no connection is lost.
//
// Row 24: an installation whose backends have the earlier layout goes on with its connections and its rows.
// Trap 35: a pinned map of another layout is converted and exchanged, never made anew empty.
func TestBackendsOfTheEarlierLayoutAreConvertedUnderConnections(t *testing.T) {
	needTCX(t)
	begin := func(t *testing.T) (string, int, map[uint32]abi.Backend) {
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
		held := backendsIn(t, d)
		asBefore(t, d, dir)
		d.Close()
		return dir, ifindex, held
	}
	convert := func(dir string, steps func(string) error) (*Dataplane, error) {
		return Load(Options{PinDir: dir, Capacities: small, Flows: 1024, Connections: 1024, steps: steps})
	}
	names := stepsOf(func(steps func(string) error) {
		dir, ifindex, _ := begin(t)
		d, err := convert(dir, func(step string) error {
			from, to := attached(t, dir, ifindex)
			goesOn(t, from, to, connection(t, "10.1.0.9:4000"), "before "+step)
			return steps(step)
		})
		check(t, err)
		d.Close()
	})
	if !slices.Contains(names, "exchanged pin backends_v3") {
		t.Fatalf("steps %v", names)
	}
	for _, step := range names {
		if !everyStep() && !slices.Contains([]string{"exchange for adopting programs", "exchanged pin backends_v3", "exchange programs"}, step) {
			continue
		}
		t.Run("killed at "+step, func(t *testing.T) {
			dir, ifindex, held := begin(t)
			if _, err := convert(dir, killedAt(step)); !errors.Is(err, errKilled) {
				t.Fatalf("not killed: %v", err)
			}
			from, to := attached(t, dir, ifindex)
			goesOn(t, from, to, connection(t, "10.1.0.9:4000"), "while nobody is there")
			d, err := convert(dir, nil)
			check(t, err)
			t.Cleanup(d.Close)
			from, to = attached(t, dir, ifindex)
			goesOn(t, from, to, connection(t, "10.1.0.9:4000"), "afterwards")
			if diff := cmp.Diff(held, backendsIn(t, d)); diff != "" {
				t.Errorf("backends (-before +after):\n%s", diff)
			}
			if _, err := os.Stat(filepath.Join(mapsDir(dir), "backends_v2")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the earlier map is still pinned: %v", err)
			}
		})
	}
}

func backendsIn(t *testing.T, d *Dataplane) map[uint32]abi.Backend {
	t.Helper()
	held := map[uint32]abi.Backend{}
	check(t, eachEntry(d.Map(abi.Backends), func(k, v []byte) error {
		held[view[uint32](k, 1)[0]] = view[abi.Backend](v, 1)[0]
		return nil
	}))
	return held
}

// asBefore pins the backends as the version before had them, in place of those of today. Programs that are attached go on
// with theirs, as that version's did.
func asBefore(t *testing.T, d *Dataplane, dir string) {
	t.Helper()
	before, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "backends_v2", Type: ebpf.Hash, KeySize: 4, ValueSize: 40, MaxEntries: 64, Flags: d.Map(abi.Backends).Flags(),
	})
	check(t, err)
	defer before.Close()
	for id, b := range backendsIn(t, d) {
		check(t, before.Put(id, bytesOf(&backendV2{
			Addr: b.Addr, Place: b.Place, Set: b.Set, Port: b.Port, State: b.State, Layer: b.Layer, Twin: b.Twin,
		})))
	}
	check(t, before.Pin(filepath.Join(mapsDir(dir), "backends_v2")))
	check(t, os.Remove(filepath.Join(mapsDir(dir), abi.Backends.String())))
}

func TestAMapOfNoKnownLayoutIsRefused(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	check(t, os.MkdirAll(mapsDir(dir), 0o700))
	strange, err := ebpf.NewMap(&ebpf.MapSpec{Name: "backends_v2", Type: ebpf.Hash, KeySize: 4, ValueSize: 44, MaxEntries: 64})
	check(t, err)
	defer strange.Close()
	check(t, strange.Pin(filepath.Join(mapsDir(dir), "backends_v2")))
	d, err := Load(Options{PinDir: dir, Capacities: small, Flows: 1024, Connections: 1024})
	if err == nil {
		d.Close()
		t.Fatal("taken")
	}
	want := "the pinned map " + filepath.Join(mapsDir(dir), "backends_v2") + " has keys of 4 and values of 44 bytes, where every version of it had 4 and 40; " +
		"deltaplane cleanup removes it, which ends translated connections of per-packet flows"
	if err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}
