// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Row 21: flows are kept as long as Linux keeps them: five days for a connection, a minute for a SYN, two for
// datagrams with answers.
// Trap 13: a SYN without an answer, an end and a reset each have a short time of their own.
// Trap 14: an idle connection is kept for five days.
func TestFlowsAreKeptForAsLongAsTheyStand(t *testing.T) {
	const now = 1_000_000
	for _, c := range []struct {
		name     string
		protocol model.Protocol
		state    uint8
		acked    uint32
		keeps    time.Duration
	}{
		{"a SYN without an answer", model.TCP, 0, 0, time.Minute},
		{"a connection", model.TCP, abi.FlowAnswered, 1, 5 * 24 * time.Hour},
		{"a connection whose answer is known by its acknowledgment", model.TCP, 0, 1, 5 * 24 * time.Hour},
		{"one that has ended", model.TCP, abi.FlowAnswered | abi.FlowFIN, 1, 2 * time.Minute},
		{"one that was reset", model.TCP, abi.FlowAnswered | abi.FlowFIN | abi.FlowReset, 1, 10 * time.Second},
		{"datagrams", model.UDP, 0, 0, 30 * time.Second},
		{"datagrams with answers", model.UDP, abi.FlowAnswered, 0, 2 * time.Minute},
		{"SCTP", model.SCTP, abi.FlowAnswered, 0, 210 * time.Second},
	} {
		key := abi.Tuple{Protocol: uint8(c.protocol)}
		for late, want := range map[time.Duration]bool{0: false, time.Second: true} {
			seen := now - uint32((c.keeps+late)/time.Second)
			stands := standingOf(&key, &abi.Flow{State: c.state, Acknowledged: c.acked, Seen: seen})
			if got := DefaultTimeouts.expired(stands, now); got != want {
				t.Errorf("%s, %v idle: expired is %v, want %v", c.name, c.keeps+late, got, want)
			}
		}
	}
}

// Trap 18: a packet that comes while the sweep runs makes no flow look old.
func TestNothingIsOlderThanItsLastPacket(t *testing.T) {
	if got := age(100, 90); got != 0 {
		t.Errorf("a packet after the sweep began is %d s old", got)
	}
	a := standing{seen: 10, answered: true, fin: true}
	b := standing{seen: 95, answered: false, reset: true}
	if got, want := a.with(b, 90), (standing{seen: 95, fin: true, reset: true}); got != want {
		t.Errorf("together: %+v, want %+v", got, want)
	}
}

// Row 21: an answer counts in whatever second it comes, so that datagrams with answers are kept for two minutes.
// Trap 13: an answer within the first second of a flow is one, too.
func TestAnAnswerAtOnceIsNoted(t *testing.T) {
	d := load(t, "")
	putServices(t, d)
	const asking, silent = "10.1.0.9:4000", "10.1.0.9:4001"
	for _, client := range []string{asking, silent} {
		_, _, err := d.RunFromPod(frame(t, model.UDP, client, "10.96.0.1:80", "", 9), 0)
		check(t, err)
	}
	_, _, err := d.RunToPod(frame(t, model.UDP, "10.1.0.1:8080", asking, "", 9), 0)
	check(t, err)
	for _, step := range []struct{ age, left uint32 }{{60, 2}, {70, 0}} {
		check(t, d.PassTime(step.age))
		now, err := NowSeconds()
		check(t, err)
		_, err = d.Sweep(t.Context(), DefaultTimeouts, now)
		check(t, err)
		left := uint32(0)
		check(t, eachEntry(d.maps[flowsMap], func(_, _ []byte) error { left++; return nil }))
		if left != step.left {
			t.Errorf("%d s later %d entries are left, want %d", step.age, left, step.left)
		}
	}
}

// flowOf returns the entries of a flow: two, or four if it is masqueraded. The first is the client's.
func flowOf(client, service, backend, node string, edit func(*abi.Flow)) (keys []abi.Tuple, flows []abi.Flow) {
	at := func(text string) ([16]byte, [2]byte) {
		a := netip.MustParseAddrPort(text)
		return a.Addr().As16(), abi.Port(a.Port())
	}
	add := func(from, to, becomes string, other string, leaving uint8) {
		k := abi.Tuple{Protocol: uint8(model.TCP), Leaving: leaving}
		k.Source, k.SourcePort = at(from)
		k.Destination, k.DestinationPort = at(to)
		f := abi.Flow{State: abi.FlowAnswered}
		f.Addr, f.Port = at(becomes)
		_, f.OtherPort = at(other)
		edit(&f)
		keys, flows = append(keys, k), append(flows, f)
	}
	add(client, service, backend, client, 0)
	if node != "" {
		add(client, backend, node, backend, 1)
		add(backend, node, client, backend, 0)
	}
	add(backend, client, service, client, 1)
	return keys, flows
}

func TestAllEntriesOfAFlowAreRelated(t *testing.T) {
	for _, node := range []string{"", "192.0.2.1:5000"} {
		keys, flows := flowOf("10.1.0.1:4000", "10.96.0.1:80", "10.1.0.2:8080", node, func(*abi.Flow) {})
		for i := range keys {
			known := map[abi.Tuple]bool{keys[i]: true}
			for range keys {
				for j := range keys {
					if known[keys[j]] {
						for _, other := range related(&keys[j], &flows[j]) {
							known[other] = true
						}
					}
				}
			}
			for j := range keys {
				if !known[keys[j]] {
					t.Errorf("masqueraded %v: entry %d is not found from entry %d", node != "", j, i)
				}
			}
		}
	}
}

// Row 21: the sweep deletes the entries of a flow together, and only if none of them was used.
// Trap 17: the sweep writes to no entry that programs write, and judges a flow by the newest of its entries.
// Trap 18: a flow from the future, as after a change of clocks, is kept.
func TestSweepDeletesWhatIsOver(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	const now = 1_000_000
	flows := d.maps[flowsMap]
	put := func(port, node string, edit func(*abi.Flow)) []abi.Tuple {
		keys, values := flowOf("10.1.0.1:"+port, "10.96.0.1:80", "10.1.0.2:8080", node, edit)
		for i := range keys {
			check(t, flows.Put(bytesOf(&keys[i]), bytesOf(&values[i])))
		}
		return keys
	}
	idle := func(seconds uint32, state uint8) func(*abi.Flow) {
		return func(f *abi.Flow) { f.Seen, f.State = now-seconds, state }
	}
	cases := []struct {
		name string
		keys []abi.Tuple
		want bool
	}{
		{"an idle connection", put("1001", "", idle(400_000, abi.FlowAnswered)), true},
		{"a connection that is over", put("1002", "", idle(121, abi.FlowAnswered|abi.FlowFIN)), false},
		{"a masqueraded one that is over", put("1003", "192.0.2.1:5000", idle(121, abi.FlowAnswered|abi.FlowFIN)), false},
		{"one with the clock of another kernel", put("1004", "", func(f *abi.Flow) { f.Seen = now + 500 }), true},
		{"one with a packet of late in one direction", func() []abi.Tuple {
			first := true
			return put("1005", "192.0.2.1:5001", func(f *abi.Flow) {
				f.Seen, f.State = now-500, abi.FlowAnswered|abi.FlowFIN
				if first {
					f.Seen, first = now-5, false
				}
			})
		}(), true},
		{"one without an answer in one direction", func() []abi.Tuple {
			first := true
			return put("1006", "", func(f *abi.Flow) {
				f.Seen, f.State = now-61, abi.FlowAnswered
				if first {
					f.State, first = 0, false
				}
			})
		}(), false},
	}
	swept, err := d.Sweep(t.Context(), DefaultTimeouts, now)
	check(t, err)
	gone := 0
	for _, c := range cases {
		for i := range c.keys {
			err := flows.Lookup(bytesOf(&c.keys[i]), make([]byte, flows.ValueSize()))
			if got := err == nil; got != c.want {
				t.Errorf("%s: entry %d is there: %v, want %v", c.name, i, got, c.want)
			}
			if !c.want {
				gone++
			}
		}
	}
	if swept.FlowsDeleted != gone || swept.Flows != 16 {
		t.Errorf("swept %+v, want %d of 16", swept, gone)
	}
	use, err := d.Use()
	check(t, err)
	for _, u := range use {
		if u.Map == flowsMap && (u.Entries != 16-gone || u.Capacity != 1024 || !u.Evicts) {
			t.Errorf("use %+v, want %d entries", u, 16-gone)
		}
	}
}

func TestSweepKeepsAffinitiesThatLast(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	const now = 1_000_000
	check(t, d.Map(abi.Sets).Put(uint32(1), abi.Encode(abi.BackendSet{Affinity: 100})))
	m := d.maps[affinitiesMap]
	cases := []struct {
		key  abi.AffinityKey
		idle uint32
		want bool
	}{
		{abi.AffinityKey{Set: 1, Cookie: 1}, 100, true},
		{abi.AffinityKey{Set: 1, Cookie: 2}, 101, false},
		{abi.AffinityKey{Set: 2, Cookie: 1}, 101, true}, // its set may be on its way
		{abi.AffinityKey{Set: 2, Cookie: 2}, 86401, false},
	}
	for _, c := range cases {
		check(t, m.Put(bytesOf(&c.key), abi.Encode(abi.Affinity{Backend: 7, Seen: now - c.idle})))
	}
	swept, err := d.Sweep(t.Context(), DefaultTimeouts, now)
	check(t, err)
	if swept.Affinities != 4 || swept.AffinitiesDeleted != 2 {
		t.Errorf("swept %+v, want 2 of 4 affinities", swept)
	}
	for _, c := range cases {
		err := m.Lookup(bytesOf(&c.key), make([]byte, m.ValueSize()))
		if got := err == nil; got != c.want {
			t.Errorf("%+v after %d s: is there: %v, want %v", c.key, c.idle, got, c.want)
		}
	}
}

func TestSweepEndsWithItsContext(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Sweep(ctx, DefaultTimeouts, 0); err != nil {
		t.Error(err)
	}
}

// BenchmarkSweep reports what a sweep over 4 million live entries costs: ms of work, and the share of a processor if
// one begins every 30 s.
func BenchmarkSweep(b *testing.B) {
	testkit.NeedKernel(b)
	const entries = 4 << 20
	d, err := Load(Options{Flows: entries + entries/4})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	now, err := NowSeconds()
	if err != nil {
		b.Fatal(err)
	}
	fill(b, d.maps[flowsMap], entries/2, now)
	for b.Loop() {
		before := cpuTime(b)
		s := sweeper{d: d, timeouts: DefaultTimeouts, now: now, flows: d.maps[flowsMap], pace: pace{slice: time.Hour, began: time.Now()}}
		if err := s.sweepFlows(b.Context()); err != nil {
			b.Fatal(err)
		}
		used := cpuTime(b) - before
		b.ReportMetric(float64(used.Milliseconds()), "cpu-ms/sweep")
		b.ReportMetric(used.Seconds()/30, "cores@30s")
		b.ReportMetric(float64(s.swept.Flows), "entries")
	}
}

func fill(b *testing.B, m *ebpf.Map, flows int, now uint32) {
	b.Helper()
	var keys, values []byte
	n := 0
	flush := func() {
		if err := updateEntries(m, n, keys, values, ebpf.UpdateAny, func(err error) error { return err }); err != nil {
			b.Fatal(err)
		}
		keys, values, n = keys[:0], values[:0], 0
	}
	k, f := flowOf("10.1.0.1:4000", "10.96.0.1:80", "10.1.0.2:8080", "", func(f *abi.Flow) { f.Seen = now })
	for i := range flows {
		client := [4]byte{10, 2 + byte(i>>16), byte(i >> 8), byte(i)}
		copy(k[0].Source[12:], client[:])
		copy(k[1].Destination[12:], client[:])
		for j := range k {
			keys, values = append(keys, bytesOf(&k[j])...), append(values, bytesOf(&f[j])...)
			n++
		}
		if n >= 4096 {
			flush()
		}
	}
	flush()
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
