// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
)

// takeDelta takes in a delta of the leader's, comparing it with what this core would have said.
func (c *Core) takeDelta(d *model.Delta) {
	s := &c.standby
	if d.StateSequence != s.at {
		c.endGroup()
		s.at = d.StateSequence
		c.beginGroup(d.Committed, d.UnchangedAt)
	}
	if err := c.log.apply(*d); err != nil {
		c.log.miss(schemas.DeltaSubject(d.Layer.String()), err)
		c.cold(err.Error())
		return
	}
	switch {
	case rollsBack(d):
		c.coldAgreed()
	case s.warm:
		c.expect(d)
	}
}

// endGroup is when all of the leader's revisions up to a message of STATE have come.
func (c *Core) endGroup() {
	if s := &c.standby; s.warm && len(s.plan.stages) > 0 {
		c.cold(fmt.Sprintf("after revision %d the leader left out changes of %d layers", c.revision, len(s.plan.stages[0])))
	}
}

// beginGroup takes in the facts that are in the leader's rows from now on, in the groups in which the leader has compiled
// them, and works out what should come.
func (c *Core) beginGroup(now time.Time, unchanged []uint64) {
	s := &c.standby
	if !c.caughtUp {
		return
	}
	if s.at < s.released {
		c.cold("the leader is behind in STATE")
		return
	}
	for _, sequence := range append(slices.Clip(unchanged), s.at) {
		if len(s.plan.stages) > 0 {
			c.cold(fmt.Sprintf("after revision %d this compiler changes %d layers, the leader none", c.revision, len(s.plan.stages[0])))
		}
		if sequence > s.at {
			continue
		}
		c.release(now, sequence)
		if s.warm && !c.pending.empty() {
			s.plan, _ = c.plan(now)
		}
	}
}

// expect compares a delta, which the rows have, with what is planned.
func (c *Core) expect(d *model.Delta) {
	s := &c.standby
	if d.Change.Empty() {
		return // it lifts the layer above some node's
	}
	if len(s.plan.stages) == 0 || s.plan.stages[0][d.Layer] == nil {
		c.cold(fmt.Sprintf("the leader's revision %d changes layer %s, this compiler's doesn't", d.To, d.Layer))
		return
	}
	stage := s.plan.stages[0]
	planned := stage[d.Layer]
	large := size(planned) > c.o.MaxBatchBytes/2 // comes in several revisions
	same := planned.Put.Len() == d.Change.Put.Len() && planned.Remove.Len() == d.Change.Remove.Len()
	switch has := c.rows(d.Layer).Has(planned); {
	case has && (same || large):
		delete(stage, d.Layer)
		s.partly = false
	case large:
		s.partly = true
	default:
		c.cold(fmt.Sprintf("the leader's revision %d changes layer %s otherwise than this compiler", d.To, d.Layer))
		return
	}
	if len(stage) == 0 {
		s.plan.stages, s.plan.why = s.plan.stages[1:], s.plan.why[1:]
	}
}

// cold notes that the rows are no longer known to be those that this core would compile: it compares all when it can.
func (c *Core) cold(why string) {
	s := &c.standby
	if s.warm {
		s.differs = why
		c.renumber()
	}
	s.warm, s.plan, s.partly, c.compiled, c.engine = false, plan{}, false, nil, nil
}

// renumber has the ids that rows have, and no others: some may have been given that the leader gave otherwise.
func (c *Core) renumber() {
	sets, backends := c.ids.Quarantined()
	fresh := NewFold(c.log.quarantine).ids
	for _, held := range c.layers {
		fresh.Fold(&model.Tables{}, &model.Change{Put: model.Rows{
			Sets: slices.Collect(maps.Values(held.rows.Sets)), Backends: slices.Collect(maps.Values(held.rows.Backends)),
		}}, time.Time{})
	}
	fresh.Restore(sets, backends)
	c.log.ids, c.ids = fresh, fresh
}

// compareAll compiles everything and compares it with the leader's rows. If they are the same this core goes on from
// there, warm.
func (c *Core) compareAll(now time.Time) (out Output) {
	s := &c.standby
	engine, snapshot := c.newEngine(), c.db.Snapshot()
	d := compile.Compare(snapshot, c.ids, engine, c.o.Settings, c.tables())
	c.stats.Checks++
	if len(d.Stages) > 0 {
		return c.differ(now, d.Stages)
	}
	c.setAllAside(now, d.SetAside)
	c.refuse(now, d.Refused)
	c.engine, c.compiled, c.compiling, c.done, c.pending = engine, snapshot, s.released, s.released, pending{}
	if s.told {
		out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_INFO, "standby_agrees", fmt.Sprintf(
			"at revision %d this compiler, which stands by, has the leader's rows again", c.revision), nil))
	}
	s.compare, s.pause = now.Add(c.compareEvery()), 0
	s.warm, s.differs, s.told = true, "", false
	return out
}

// differ is when the leader's rows are others than this core would have compiled. It is told once. What this core has read
// may be wrong, so it is read anew, once; if that changes nothing, all is compared again from time to time.
func (c *Core) differ(now time.Time, stages []compile.Stage) (out Output) {
	s := &c.standby
	s.pause = min(max(2*s.pause, c.compareEvery()), mostPause)
	s.compare = now.Add(s.pause)
	c.renumber()
	rows := 0
	for _, change := range inAll(stages) {
		rows += change.Put.Len() + change.Remove.Len()
	}
	s.differs = fmt.Sprintf("at revision %d, with STATE up to message %d, the leader has %d other rows", c.revision, s.at, rows)
	c.stats.Mismatches++
	if s.told {
		return out
	}
	s.told = true
	out.Reread = s.differs + " than this compiler"
	out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_ERROR, "standby_differs",
		s.differs+" than this compiler, which stands by: one of them is wrong. This one reads both streams anew; if event standby_agrees doesn't follow, please report it with both compilers' logs", nil))
	return out
}

func (c *Core) compareEvery() time.Duration {
	return max(compareAgain, time.Duration(c.Rows())*compareAgainPerRow)
}

// Beat takes in the leader's heartbeat, whose seal was checked: which facts are in the rows, though they changed none. Only
// by it the leader's rows can be compared in full: they are those of one message of one STATE.
func (c *Core) Beat(now time.Time, m *schemas.Heartbeat) (out Output) {
	s := &c.standby
	if c.Leads() || len(s.records) > 0 || !c.caughtUp || m.GetEpoch() != uint64(c.log.epoch) || m.GetRevision() != uint64(c.revision) {
		return out
	}
	if bad := c.disagrees(m); bad != "" {
		c.log.miss(schemas.SubjectHeartbeat, fmt.Errorf("%s", bad))
		c.cold(bad)
		c.adopt()
		return out
	}
	if !c.sameState(m) || m.GetStateSequence() > c.seen || !bytes.Equal(m.GetDigest(), c.Digest().Bytes()) {
		return out // not all of the revision, or of STATE, was read
	}
	if s.warm && m.GetStateSequence() < s.released {
		return out // it comes late
	}
	c.endGroup()
	s.at = m.GetStateSequence()
	c.beginGroup(c.last.at, m.GetUnchangedAt())
	c.endGroup()
	if s.warm {
		c.compiling = s.at
	}
	// STATE keeps only the newest fact of each object: whoever was away lacks facts between those that it has, until it
	// has come to the end.
	if !s.warm && c.log.hold == nil && c.trusted && c.complete() && c.sameMessage(m) && s.at == s.released && len(s.facts) == 0 && !now.Before(s.compare) {
		out.Add(c.compareAll(now))
	}
	return out
}

// sameState says whether the STATE that the leader has read is known to be that which this core has read.
func (c *Core) sameState(m *schemas.Heartbeat) bool {
	return m.GetState() != nil && !c.doubt && proto.Equal(m.GetState(), cmp.Or(c.state, &schemas.Epoch{}))
}

// sameMessage says whether the newest message of STATE that the leader has read, and is in its rows, is the newest that this
// core has read. Where STATE was restored and has grown again the leader may not have found out yet, nor need the epoch be
// another: whose fence holds by chance stores once more.
func (c *Core) sameMessage(m *schemas.Heartbeat) bool {
	return m.GetStateSequence() == c.seen && m.GetStateStored() != nil && m.GetStateStored().AsTime().Equal(c.stored)
}

// disagrees says which layer's digest is another than the leader says.
func (c *Core) disagrees(m *schemas.Heartbeat) string {
	positions, err := wire.PositionsFromProto(m.GetPositions())
	if err != nil {
		return ""
	}
	for l, told := range positions {
		if is := c.Position(l); is.Revision == told.Revision && is.Digest != told.Digest {
			return fmt.Sprintf("layer %s at revision %d has digest %s here, the leader says %s", l, is.Revision, is.Digest, told.Digest)
		}
	}
	return ""
}

// Agrees says whether all rows of the leader's are known to be those that this core, standing by, would have compiled.
func (c *Core) Agrees() bool { return c.standby.warm && c.standby.differs == "" }

// Digest returns one digest of all layers and how far each is, to compare replicas by.
func (c *Core) Digest() (d model.Digest) {
	for l, held := range c.layers {
		b := binary.BigEndian.AppendUint64([]byte(l.String()), uint64(held.at.Revision))
		hash := sha256.Sum256(append(b, held.at.Digest.Bytes()...))
		d[0] += binary.BigEndian.Uint64(hash[:])
		d[1] += binary.BigEndian.Uint64(hash[8:])
	}
	return d
}
