// SPDX-License-Identifier: Apache-2.0

package core

import (
	"runtime"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// BenchmarkTakeover has a standby beside the leader of 100,000 pods on 1,000 nodes with 10,000 policies: how long it
// takes to fold the log and to compare everything once, what following a change costs, and how long it takes from the
// epoch to the first commit, with the standby warm, and cold.
func BenchmarkTakeover(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, Options{})
		log := NewFold(0)
		keep := func(out Output) (records []Record) {
			for out.Append != nil {
				records = append(records, out.Append...)
				out = w.core.Appended(w.now)
			}
			return records
		}
		policedCluster(w)
		w.core.CaughtUp(w.now)
		records := keep(w.core.Facts(w.now, 1, complete()))
		leader := heap()
		begun := time.Now()
		for _, r := range append([]Record{{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: 1})}}, records...) {
			if err := log.Add(r.Subject, r.Data); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-fold")
		second := &world{t: b, now: w.now, core: NewStandby(Options{Signer: signer}, log)}
		policedCluster(second)
		second.core.Facts(w.now, 1, complete())
		second.core.CaughtUp(w.now)
		begun = time.Now()
		second.core.Beat(w.now, &schemas.Heartbeat{Epoch: 1, Revision: uint64(w.core.Revision()), StateSequence: 1, State: &schemas.Epoch{}, Digest: w.core.Digest().Bytes()})
		if !second.core.Agrees() {
			b.Fatal("the standby compiles other rows: ", second.core.standby.differs)
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-compare")
		runtime.GC()
		b.ReportMetric(float64(heap()-leader)/1e6, "MB-standby")
		b.ReportMetric(float64(leader)/1e6, "MB-leader")

		w.now = w.now.Add(time.Minute)
		edit := manyPolicy(42, 3, 9999)
		w.core.Facts(w.now, 2, clone(edit))
		w.now = w.now.Add(time.Second)
		begun = time.Now()
		records = keep(w.core.Tick(w.now))
		b.ReportMetric(float64(time.Since(begun).Microseconds())/1e3, "ms-commit")
		second.core.Facts(w.now, 2, clone(edit))
		begun = time.Now()
		for _, r := range records {
			second.core.Log(w.now, r)
		}
		b.ReportMetric(float64(time.Since(begun).Microseconds())/1e3, "ms-follow")
		if !second.core.Agrees() || second.core.Revision() != w.core.Revision() {
			b.Fatal("the standby compiles other rows: ", second.core.standby.differs)
		}
		takeOver(b, second.core, w.now, "ms-warm")
		second.core.StandBy()
		second.core.cold("to measure it")
		takeOver(b, second.core, w.now, "ms-cold")
	}
}

// takeOver measures the time from the epoch to the first commit, of a policy that was edited meanwhile.
func takeOver(b *testing.B, c *Core, now time.Time, unit string) {
	b.Helper()
	epoch, before := c.newestEpoch()+1, c.Revision()
	c.Facts(now, c.seen+1, clone(manyPolicy(43, 3, uint32(7000+epoch))))
	begun := time.Now()
	c.Lead(now, epoch)
	c.Log(now, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: uint64(epoch)})})
	out := c.Tick(now.Add(time.Second))
	for out.Append != nil {
		out = c.Appended(now)
	}
	if c.Revision() == before || c.Position(model.ClusterLayer).Epoch > epoch {
		b.Fatal("it committed nothing")
	}
	b.ReportMetric(float64(time.Since(begun).Microseconds())/1e3, unit)
}
