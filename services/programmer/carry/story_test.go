// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// settled returns a node that holds a first state.
func settled(t testing.TB, m maps.Maps, capacities ...plan.Capacities) (*node, *compiler) {
	t.Helper()
	c := newCompiler()
	c.commit(model.ClusterLayer, shop(3, 4, 1), time.Unix(1, 0))
	c.commit(model.NodeLayer("a"), pods("web-1", "web-2"), time.Unix(1, 0))
	n := start(t, c, m, capacities...)
	n.pass(2 * time.Second)
	n.converged()
	return n, c
}

func TestAnEmptyNodeAsksForAllAndReportsIt(t *testing.T) {
	n, c := settled(t, memory())
	if len(n.syncs) != 1 || len(n.syncs[0].Positions) != 0 {
		t.Errorf("asked %v, want once, with nothing known", n.syncs)
	}
	r := n.lastReport()
	for l, at := range c.at {
		if r.Positions[l] != at {
			t.Errorf("reported %v for layer %s, want %v", r.Positions[l], l, at)
		}
	}
	if len(n.wanted) != 2 {
		t.Errorf("%d endpoints to attach, want 2", len(n.wanted))
	}
	if err := n.driver.Core.Ready(); err != nil {
		t.Error(err)
	}
}

func TestADeltaIsAppliedOnceAndReportedWithItsCost(t *testing.T) {
	n, c := settled(t, memory())
	reports := len(n.reports)
	d := c.commit(model.ClusterLayer, shop(3, 5, 1), n.now.Add(-7*time.Millisecond))
	n.put(d)
	n.converged()
	if len(n.reports) != reports+1 {
		t.Fatalf("%d reports at once, want 1", len(n.reports)-reports)
	}
	a := n.lastReport().Deltas
	if len(a) != 1 || a[0].To != d.To || a[0].Latency != 7*time.Millisecond || a[0].Bytes != 100 || a[0].Writes == 0 {
		t.Errorf("reported %+v", a)
	}
	writes := n.maps.Writes()
	n.put(d)
	n.put(core.Delta{Delta: c.log[0]})
	if n.maps.Writes() != writes || n.driver.Core.Stats().Duplicates != 2 {
		t.Errorf("duplicates made %d writes, %d counted", n.maps.Writes()-writes, n.driver.Core.Stats().Duplicates)
	}
	n.converged()
}

func TestReportsAreAtMostOneASecond(t *testing.T) {
	n, c := settled(t, memory())
	n.pass(2 * time.Second)
	reports := len(n.reports)
	for i := range 20 {
		n.put(c.commit(model.ClusterLayer, shop(3, 4+i%2, 1), n.now))
		n.pass(100 * time.Millisecond)
	}
	if got := len(n.reports) - reports; got > 3 {
		t.Errorf("%d reports in 2 s", got)
	}
	n.pass(2 * time.Second)
	deltas := 0
	for _, r := range n.reports[reports:] {
		deltas += len(r.Deltas)
	}
	if deltas != 20 {
		t.Errorf("%d deltas reported of 20", deltas)
	}
}

// Fault 1: one delta is lost; the next one shows it, and the log fills the gap without a snapshot.
func TestAGapIsFilledFromTheLog(t *testing.T) {
	n, c := settled(t, memory())
	c.commit(model.ClusterLayer, shop(3, 5, 1), n.now) // lost
	n.put(c.commit(model.ClusterLayer, shop(3, 6, 1), n.now))
	n.pass(500 * time.Millisecond)
	n.converged()
	if s := n.driver.Core.Stats(); s.Gaps == 0 || s.Snapshots != 2 {
		t.Errorf("got %+v, want a gap and no snapshot but the first two", s)
	}
}

// Fault 1: the last delta before silence is lost; the heartbeat shows it.
func TestTheLastDeltaBeforeSilenceIsMissedByTheHeartbeat(t *testing.T) {
	n, c := settled(t, memory())
	n.pass(time.Second)
	c.commit(model.ClusterLayer, shop(3, 5, 1), n.now) // lost
	n.pass(1500 * time.Millisecond)
	n.converged()
}

// Fault 1: deltas come in another order.
func TestOutOfOrderDeltasConverge(t *testing.T) {
	n, c := settled(t, memory())
	first := c.commit(model.ClusterLayer, shop(3, 5, 1), n.now)
	second := c.commit(model.ClusterLayer, shop(3, 6, 1), n.now)
	n.put(second)
	n.put(first)
	n.put(second)
	n.pass(time.Second)
	n.converged()
}

func TestADeposedCompilersDeltasAreDropped(t *testing.T) {
	n, c := settled(t, memory())
	stale := c.commit(model.ClusterLayer, shop(3, 5, 1), n.now)
	c.log = c.log[:2]
	c.layers[model.ClusterLayer], c.revision = shop(3, 4, 1), 2
	c.at[model.ClusterLayer] = model.Position{Epoch: 1, Revision: 1, Digest: shop(3, 4, 1).Digest()}
	c.epoch = 2
	n.put(c.heartbeat())
	writes := n.maps.Writes()
	n.put(stale)
	if n.maps.Writes() != writes || n.driver.Core.Stats().StaleEpochs != 1 {
		t.Errorf("a delta of epoch 1 made %d writes in epoch 2", n.maps.Writes()-writes)
	}
	n.put(c.commit(model.ClusterLayer, shop(4, 4, 1), n.now))
	n.converged()
	if len(n.syncs) != 1 {
		t.Errorf("asked %d times: a new epoch that goes on where the old one ended needs no question", len(n.syncs))
	}
}

// Fault 2: a compiler that takes over may have heard nothing before, so nodes say all within seconds, once.
func TestANodeSaysAllToACompilerThatTakesOver(t *testing.T) {
	n, c := settled(t, memory())
	n.pass(20 * time.Second)
	reports, writes := len(n.reports), n.maps.Writes()
	c.epoch++
	n.pass(4 * time.Second)
	whole := 0
	for _, r := range n.reports[reports:] {
		if r.Whole && r.Idle {
			whole++
		}
	}
	if whole != 1 || n.maps.Writes() != writes {
		t.Errorf("%d whole reports of %d within 4 s, want 1; %d writes, want none", whole, len(n.reports)-reports, n.maps.Writes()-writes)
	}
}

func TestADeltaFromTooFarAheadIsNotBelieved(t *testing.T) {
	n, c := settled(t, memory())
	writes, at := n.maps.Writes(), c.at[model.ClusterLayer]
	for _, d := range []model.Delta{
		{Epoch: 1 << 60, From: at.Revision, To: at.Revision + 1}, {Epoch: 1, From: at.Revision, To: 1 << 60},
	} {
		d.Layer, d.DigestAfter = model.ClusterLayer, at.Digest
		n.put(core.Delta{Delta: d, Bytes: 100})
	}
	if s := n.driver.Core.Stats(); s.Foreign != 2 || n.maps.Writes() != writes {
		t.Errorf("%d deltas were set aside, %d writes made; want 2 and none", s.Foreign, n.maps.Writes()-writes)
	}
	want := "a message on layer cluster was set aside: a delta of epoch 1152921504606846976 from revision "
	if e := n.events[len(n.events)-1]; !strings.HasPrefix(e.Text, want) {
		t.Errorf("event %q, want %q", e.Text, want)
	}
	n.put(c.commit(model.ClusterLayer, shop(3, 5, 1), n.now))
	n.converged()
}

func TestAHeartbeatThatLiesAboutItsEpochSilencesNobodyForLong(t *testing.T) {
	n, c := settled(t, memory())
	n.put(core.Heartbeat{Epoch: 1 << 60, Revision: 9})
	n.put(c.commit(model.ClusterLayer, shop(3, 5, 1), n.now))
	if n.driver.Core.Stats().StaleEpochs == 0 {
		t.Error("a delta of a lower epoch was taken at once")
	}
	n.pass(7 * time.Second)
	n.converged()
	n.put(c.commit(model.ClusterLayer, shop(3, 6, 1), n.now))
	n.converged()
}

func TestALogThatWasCutIsFollowedInTheEnd(t *testing.T) {
	n, c := settled(t, memory())
	n.put(c.commit(model.ClusterLayer, shop(5, 4, 1), n.now))
	c.log, c.revision, c.epoch = nil, 0, 2
	for l := range c.at {
		c.at[l] = model.Position{Epoch: 2}
	}
	c.commit(model.ClusterLayer, shop(2, 4, 1), n.now)
	c.commit(model.NodeLayer("a"), pods("web-9"), n.now)
	n.pass(5 * time.Second)
	n.converged()
}

// A heartbeat names a node's layer only shortly after it changed; so the answer to a sync alone must do.
func TestALogThatWasCutIsFollowedWithoutHeartbeats(t *testing.T) {
	n, c := settled(t, memory())
	l := model.NodeLayer("a")
	rows, at := c.layers[l], c.at[l]
	n.put(c.commit(l, pods("web-8", "web-9"), n.now))
	c.epoch, c.layers[l], c.at[l], c.log = 2, rows, at, nil
	for range 450 {
		n.now = n.now.Add(core.TickInterval)
		n.put(core.Tick{})
	}
	n.converged()
}

func TestADeltaWithTheWrongDigestIsNotAppliedAndHealed(t *testing.T) {
	n, c := settled(t, memory())
	d := c.commit(model.ClusterLayer, shop(3, 5, 1), n.now)
	d.DigestAfter[0]++
	n.compiler.refuse = "busy"
	writes := n.maps.Writes()
	n.put(d)
	if n.maps.Writes() != writes {
		t.Errorf("%d writes", n.maps.Writes()-writes)
	}
	n.pass(time.Second)
	faults := n.lastReport().Faults
	if len(faults) != 1 || faults[0].Kind != "digest" || faults[0].Revision != d.To {
		t.Errorf("faults %+v", faults)
	}
	if err := n.driver.Core.Ready(); err == nil {
		t.Error("ready without knowing the rows")
	}
	n.compiler.refuse = ""
	n.pass(5 * time.Second)
	n.converged()
	if faults := n.lastReport().Faults; len(faults) != 0 {
		t.Errorf("after healing: %+v", faults)
	}
}

// Fault 9: what doesn't fit is refused by name, the old rows stay, and it heals once there is room.
func TestAFullMapRefusesByNameAndHealsWhenThereIsRoom(t *testing.T) {
	n, c := settled(t, memory(), plan.Capacities{abi.Backends: 13})
	before := c.layers[model.ClusterLayer]
	writes := n.maps.Writes()
	n.put(c.commit(model.ClusterLayer, shop(3, 6, 1), n.now))
	if n.maps.Writes() != writes {
		t.Fatalf("%d writes", n.maps.Writes()-writes)
	}
	faults := n.lastReport().Faults
	want := "layer cluster, revision 3: map backends_v3 has 12 of 13 entries in use and the change needs 6 more, such as backend "
	if len(faults) != 1 || faults[0].Kind != "capacity" || !strings.HasPrefix(faults[0].Text, want) {
		t.Errorf("faults %+v\nwant %s", faults, want)
	}
	if diff := model.Diff(before, n.load().Tables(model.LayerCluster)); !diff.Empty() {
		t.Error("the state before did not stay")
	}
	n.pass(time.Minute)
	if len(n.syncs) > 20 {
		t.Errorf("asked %d times within a minute", len(n.syncs))
	}
	n.put(c.commit(model.ClusterLayer, shop(3, 4, 1), n.now))
	n.pass(30 * time.Second)
	n.converged()
	if faults := n.lastReport().Faults; len(faults) != 0 {
		t.Errorf("after healing: %+v", faults)
	}
}

// What doesn't fit one node fits none of 5,000: they must not all ask for all rows again and again.
func TestAFullMapAsksSeldomForAllRows(t *testing.T) {
	n, c := settled(t, memory(), plan.Capacities{abi.Backends: 13})
	n.syncs = nil
	for i := range 600 {
		n.put(c.commit(model.ClusterLayer, shop(3, 6+i%2, 1), n.now))
		c.log = nil // it forgets deltas, so each answer is all rows
		n.pass(time.Second)
	}
	if len(n.syncs) > 10 {
		t.Errorf("asked %d times for all rows in 10 minutes, want 10 at most", len(n.syncs))
	}
	n.put(c.commit(model.ClusterLayer, shop(3, 4, 1), n.now))
	n.pass(20 * time.Second)
	n.converged()
}

func TestARestartWithNothingNewWritesNothing(t *testing.T) {
	m := memory()
	_, c := settled(t, m)
	writes := m.Writes()
	n := start(t, c, m)
	n.pass(10 * time.Second)
	n.converged()
	if m.Writes() != writes {
		t.Errorf("%d writes", m.Writes()-writes)
	}
	if s := n.driver.Core.Stats(); s.Snapshots != 0 {
		t.Errorf("%d snapshots", s.Snapshots)
	}
}

func TestARestartAfterChangesMissedAppliesOnlyThose(t *testing.T) {
	m := memory()
	_, c := settled(t, m)
	writes := m.Writes()
	c.commit(model.ClusterLayer, shop(3, 5, 1), time.Unix(2, 0))
	n := start(t, c, m)
	n.pass(time.Second)
	n.converged()
	if s := n.driver.Core.Stats(); s.Snapshots != 0 {
		t.Errorf("%d snapshots", s.Snapshots)
	}
	if got := m.Writes() - writes; got == 0 || got > 50 {
		t.Errorf("%d writes", got)
	}
}

// Promise P5: what somebody has edited is named, by what it is about.
// Fault 10: an entry that is changed, removed or added by hand is found by reading the maps, named and repaired.
func TestDriftIsFoundNamedAndRepaired(t *testing.T) {
	backend := abi.Encode(uint32(1001))
	for name, test := range map[string]struct {
		edit func(m *maps.Memory) maps.Write
		want string
	}{
		"a backend's address": {func(m *maps.Memory) maps.Write {
			value, _ := m.Lookup(abi.Backends, backend)
			value = append([]byte(nil), value...)
			value[15]++
			return maps.Write{Map: abi.Backends, Key: backend, Value: value}
		}, "backends_v3 holds backend 1001 (10.1.0.1 port 8080, state 1) of shop/s0:80 of layer cluster where it should hold backend 1001 (10.1.0.0 port 8080"},
		"a backend deleted": {func(*maps.Memory) maps.Write {
			return maps.Write{Map: abi.Backends, Key: backend}
		}, "backends_v3 has 11 entries where there should be 12; missing or changed: backend 1001 (10.1.0.0 port 8080)"},
		"a frontend nobody asked for": {func(m *maps.Memory) maps.Write {
			key := make([]byte, 20)
			key[19], key[16] = 0, 1
			return maps.Write{Map: abi.Frontends, Key: key, Value: abi.Encode(abi.Frontend{Set: 1, Kind: 1, Layer: 1})}
		}, "frontends_v2 has an entry that nobody asked for: "},
		"a count": {func(m *maps.Memory) maps.Write {
			value, _ := m.Lookup(abi.Sets, abi.Encode(uint32(1)))
			value = append([]byte(nil), value...)
			copy(value, abi.Encode(uint32(3)))
			return maps.Write{Map: abi.Sets, Key: abi.Encode(uint32(1)), Value: value}
		}, "sets_v2 holds set 1 (shop/s0:80) of 3 backends in layer cluster where it should hold set 1 (shop/s0:80) of 4 backends"},
		"an endpoint's pod": {func(m *maps.Memory) maps.Write {
			addr := pods("x").Rows().Endpoints[0].Addr.As16()
			return maps.Write{Map: abi.Endpoints, Key: addr[:], Value: abi.Encode(abi.Endpoint{Layer: 3})}
		}, "endpoints_v2 holds "},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory()
			n, _ := settled(t, m)
			if err := m.Write([]maps.Write{test.edit(m)}); err != nil {
				t.Fatal(err)
			}
			n.pass(5 * time.Second)
			n.converged()
			found := false
			for _, e := range n.events {
				found = found || e.Kind == "drift" && strings.HasPrefix(e.Text, test.want)
			}
			if !found {
				t.Errorf("events %+v\nwant drift: %s", n.events, test.want)
			}
			if faults := n.lastReport().Faults; len(faults) != 1 || faults[0].Kind != "drift" {
				t.Errorf("faults %+v", faults)
			}
			n.pass(2 * time.Minute)
			if faults := n.lastReport().Faults; len(faults) != 0 {
				t.Errorf("two minutes later: %+v", faults)
			}
		})
	}
}

// Fault 10: it is found also while the maps change all the time.
func TestDriftIsFoundUnderConstantChange(t *testing.T) {
	m := memory()
	n, c := settled(t, m)
	if err := m.Write([]maps.Write{{Map: abi.Backends, Key: abi.Encode(uint32(1001))}}); err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		n.put(c.commit(model.ClusterLayer, shop(3, 4+i%2, 1), n.now))
		n.pass(100 * time.Millisecond)
	}
	n.converged()
}

func TestAnEditWhileTheProgrammerWasAwayIsRepairedAtItsStart(t *testing.T) {
	m := memory()
	_, c := settled(t, m)
	if err := m.Write([]maps.Write{{Map: abi.Backends, Key: abi.Encode(uint32(1001))}}); err != nil {
		t.Fatal(err)
	}
	n := start(t, c, m)
	n.pass(2 * time.Second)
	n.converged()
	if !n.saw("drift") {
		t.Errorf("not told: %+v", n.events)
	}
}

func TestWithoutAnAnswerTheNodeAsksAgainAndAgainButNotOften(t *testing.T) {
	c := newCompiler()
	c.refuse = "nobody leads"
	n := start(t, c, memory())
	n.pass(5 * time.Minute)
	if got := len(n.syncs); got < 20 || got > 60 {
		t.Errorf("asked %d times in 5 minutes", got)
	}
	if err := n.driver.Core.Synced(); err == nil || !strings.Contains(err.Error(), "nobody leads") {
		t.Errorf("got %v", err)
	}
	c.refuse = ""
	n.pass(20 * time.Second)
	n.converged()
}

func TestForeignMessagesAreToldOnceInAWhile(t *testing.T) {
	n, _ := settled(t, memory())
	for i := range 1000 {
		n.put(core.Foreign{Subject: "deltaplane.v1.apply.cluster", Err: fmt.Errorf("garbage %d", i)})
	}
	told := 0
	for _, e := range n.events {
		if e.Kind == "foreign_message" {
			told++
		}
	}
	if told != 1 || n.driver.Core.Stats().Foreign != 1000 {
		t.Errorf("told %d times, counted %d", told, n.driver.Core.Stats().Foreign)
	}
	n.put(core.Delta{Delta: model.Delta{Layer: model.NodeLayer("b"), Epoch: 9, From: 0, To: 99}})
	n.put(core.Branches{Branches: model.Branches{Layer: model.NodeLayer("b")}})
	n.converged()
}

func TestAMissingHookIsAFaultUntilItIsThere(t *testing.T) {
	n, _ := settled(t, memory())
	n.put(core.Hooks{Problem: "pod shop/web-1: no route to 10.1.0.1"})
	n.put(core.Hooks{Problem: "pod shop/web-1: no route to 10.1.0.1"})
	n.pass(time.Second)
	if f := n.lastReport().Faults; len(f) != 1 || f[0].Kind != "hook" {
		t.Errorf("faults %+v", f)
	}
	n.put(core.Hooks{})
	n.pass(2 * time.Second)
	if f := n.lastReport().Faults; len(f) != 0 {
		t.Errorf("faults %+v", f)
	}
}

func BenchmarkDeltaOfOneBackendOf5000(b *testing.B) {
	c := newCompiler()
	rows := shop(1, 0, 1)
	for i := range 5000 {
		addBackend(rows, i)
	}
	c.commit(model.ClusterLayer, rows, time.Unix(1, 0))
	n := start(b, c, memory())
	n.pass(2 * time.Second)
	l := model.ClusterLayer
	without, with := c.at[l], c.at[l]
	one := shop(1, 0, 1)
	addBackend(one, 5000)
	row := one.Rows()
	digest := rows.Clone()
	with.Digest = digest.Apply(&model.Change{Put: model.Rows{Backends: row.Backends, Members: row.Members}}, without.Digest)
	b.ReportAllocs()
	revision := without.Revision
	for b.Loop() {
		n.put(core.Delta{Delta: model.Delta{
			Epoch: 1, Layer: l, From: revision, To: revision + 1, DigestAfter: with.Digest,
			Change: model.Change{Put: model.Rows{Backends: row.Backends, Members: row.Members}},
		}})
		n.put(core.Delta{Delta: model.Delta{
			Epoch: 1, Layer: l, From: revision + 1, To: revision + 2, DigestAfter: without.Digest,
			Change: model.Change{Remove: model.Keys{Backends: []model.BackendID{row.Backends[0].ID}, Members: row.Members}},
		}})
		revision += 2
	}
	if got := n.driver.Core.Positions()[l].Revision; got != revision {
		b.Fatalf("at revision %d, want %d", got, revision)
	}
}

// addBackend gives the first Service one backend more.
func addBackend(t *model.Tables, i int) {
	b := model.Backend{ID: model.BackendID(100_000 + i), State: model.BackendActive, BackendKey: model.BackendKey{
		Set: 1, Addr: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), Port: 8080,
	}}
	t.Backends[b.ID] = b
	m := model.Member{Set: 1, Backend: b.ID}
	t.Members[m] = m
}
