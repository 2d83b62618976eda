// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"maps"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestUplinksAndPodsAreKeptApart(t *testing.T) {
	needTCX(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	ns, ifindex := newPort(t)
	other := ns.Index(t, "peer")
	d := load(t, dir)
	ns.Do(t, func() {
		check(t, d.AttachPod(ifindex))
		check(t, d.AttachUplink(other))
	})
	d.Close()
	d = load(t, dir)
	if diff := cmp.Diff([][]int{{ifindex}, {other}}, [][]int{d.AttachedPods(), d.AttachedUplinks()}); diff != "" {
		t.Errorf("pods and uplinks of the earlier run: %s", diff)
	}
	ns.Do(t, func() { check(t, d.DetachUplink(other)) })
	if diff := cmp.Diff([][]int{{ifindex}, nil}, [][]int{d.AttachedPods(), d.AttachedUplinks()}); diff != "" {
		t.Errorf("after detaching the uplink: %s", diff)
	}
}

// TestProgramsComeBeforeOthers: what ends the list of an interface's programs must not hide ours.
//
// Trap 33: ours come first among an interface's programs.
func TestProgramsComeBeforeOthers(t *testing.T) {
	needTCX(t)
	other, ours := load(t, ""), load(t, "")
	ns, ifindex := newPort(t)
	ns.Do(t, func() {
		check(t, other.AttachPod(ifindex))
		check(t, ours.AttachUplink(ifindex))
		for _, dir := range uplink.ways() {
			q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: dir.attach})
			check(t, err)
			info, err := ours.program(dir.name).Info()
			check(t, err)
			if id, _ := info.ID(); len(q.Programs) != 2 || q.Programs[0].ID != id {
				t.Errorf("%s: programs %v, want ours, %d, first of 2", dir.name, q.Programs, id)
			}
		}
	})
}

func TestOnlyDifferencesOfTheNodeAreWritten(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")
	for _, want := range []map[netip.Addr]uint8{
		{a: abi.LocalNodePort, b: abi.LocalNodePort},
		{a: 0, c: abi.LocalLoopback},
		{},
	} {
		check(t, d.SetLocals(want))
		got := map[netip.Addr]uint8{}
		check(t, eachEntry(d.maps[localsMap], func(key, value []byte) error {
			got[abi.Addr([16]byte(key))] = value[0]
			return nil
		}))
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	}
	uplinks := map[int]abi.Uplink{2: {V4: a.As16()}, 7: {V6: b.As16()}}
	check(t, d.SetUplinks(uplinks))
	check(t, d.SetUplinks(maps.Clone(uplinks)))
	var got abi.Uplink
	check(t, d.maps[uplinksMap].Lookup(uint32(7), &got))
	if got != uplinks[7] {
		t.Errorf("uplink 7 is %v", got)
	}
}

func TestEntriesAreReadInBatchesAndByOne(t *testing.T) {
	testkit.NeedKernel(t)
	d, err := Load(Options{Capacities: map[abi.Map]uint32{abi.Slots: 5000, abi.Networks: 5000}})
	check(t, err)
	t.Cleanup(d.Close)
	const count = 3000
	var keys, prefixes, values []byte
	for i := range uint32(count) {
		keys = append(keys, abi.Encode(abi.SlotKey{Set: 1, Index: i})...)
		prefixes = append(prefixes, abi.Encode(abi.NetworkKey{Bits: 128, Addr: [16]byte{15: byte(i), 14: byte(i >> 8)}})...)
		values = append(values, abi.Encode(i)...)
	}
	none := func(err error) error { return err }
	check(t, updateEntries(d.Map(abi.Slots), count, keys, values, 0, none))
	check(t, updateEntries(d.Map(abi.Networks), count, prefixes, values, 0, none))
	for _, m := range []abi.Map{abi.Slots, abi.Networks} {
		for _, single := range []bool{false, true} {
			b := newBatches(d.Map(m))
			if single {
				b.singles = d.Map(m).Iterate()
			}
			seen := map[string]bool{}
			for {
				n, err := b.next()
				check(t, err)
				if n == 0 {
					break
				}
				size := int(b.m.KeySize())
				for i := range n {
					seen[string(b.keys[i*size:(i+1)*size])] = true
				}
			}
			if len(seen) != count {
				t.Errorf("%s, one by one %v: %d entries, want %d", m, single, len(seen), count)
			}
		}
	}
	check(t, deleteEntries(d.Map(abi.Slots), count, keys))
	check(t, deleteEntries(d.Map(abi.Slots), count, keys)) // what is gone is fine
	if n, err := countEntries(d.Map(abi.Slots)); n != 0 || err != nil {
		t.Errorf("%d entries left, %v", n, err)
	}
}
