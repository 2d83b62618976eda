// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
)

// Fold is what DELTA says, read from the start of the log or from any point before a checkpoint. All records
// are added in the log's order.
type Fold struct {
	layers    map[model.Layer]*layer
	ids       *ids.Allocator
	identity  model.IdentityID // that was given last
	epoch     model.Epoch
	revision  model.Revision // the highest seen
	committed time.Time
	causes    []*schemas.Cause
	parts     wire.Assembler
	// raw are the messages of the delta that is being put together. The newest whole ones are kept, so that a new
	// leader can give a node what it missed of the old one's.
	raw    [][]byte
	recent *recent

	// gap says why layers are not what the log says: something before is missing. A checkpoint mends it.
	gap  error
	open *openCheckpoint
	// met are the ids of what the log said while there was a gap.
	met met

	checkpointed                time.Time // the newest whole checkpoint; zero if there is none
	checkpointKey               seal.KeyID
	checkpointBytes, bytesSince int
	quarantine                  time.Duration
	// state is the newest message of STATE that is in the newest delta.
	state uint64
	hold  *schemas.Hold // that is in force
	// holdSaid is when the newest Hold was said, in force or over.
	holdSaid time.Time
	// live says that the rows are followed as they come: a checkpoint then says what is known already.
	live bool
	// kept says that the rows are from memory: the log has lost them. Then gap is set until they are in the log again.
	// outlived says that another has begun the log anew meanwhile, in an epoch that counts more.
	kept, outlived bool
	deltas         model.Epoch // the newest of a delta that was read, folded or not; what comes while kept aside
	// replaced is set when a checkpoint has taken the place of rows that were followed.
	replaced        bool
	checkpointEpoch model.Epoch // of the newest whole one
	// ruling is the epoch that was taken last. A delta of an earlier one isn't part of the log: where DELTA was lost, the
	// fence of who led before may hold by chance, as sequences repeat, and what it was appending arrive after all.
	ruling model.Epoch
}

// openCheckpoint is a checkpoint of which some snapshots are still to come.
type openCheckpoint struct {
	head  *schemas.Checkpoint
	key   seal.KeyID // that sealed head
	left  uint32
	parts wire.SnapshotAssembler
	into  *Fold // nil if what it says is known already
	bytes int
	sums  hash.Hash // over the sums of its snapshots so far
}

// NewFold returns a fold of nothing.
func NewFold(quarantine time.Duration) *Fold {
	if quarantine == 0 {
		quarantine = ids.DefaultQuarantine
	}
	return &Fold{
		layers: map[model.Layer]*layer{}, ids: ids.New(quarantine), quarantine: quarantine, recent: &recent{most: recentBytes},
		met: newMet(),
	}
}

// Whole returns nil if the rows are what the log says, else what is missing.
func (f *Fold) Whole() error { return f.gap }

// Revision returns the highest revision that was seen.
func (f *Fold) Revision() model.Revision { return f.revision }

// Checkpointed says whether a whole checkpoint was among the records.
func (f *Fold) Checkpointed() bool { return !f.checkpointed.IsZero() }

// Checkpoint returns when the newest whole one was written; zero if there was none.
func (f *Fold) Checkpoint() time.Time { return f.checkpointed }

// Lose forgets all rows and ids, and keeps only how far the numbers have come: the log can't be folded, and
// everything has to be compiled and sent anew.
func (f *Fold) Lose() {
	fresh := NewFold(f.quarantine)
	fresh.epoch, fresh.revision, fresh.committed, fresh.holdSaid, fresh.identity = f.epoch, f.revision, f.committed, f.holdSaid, f.identity
	*f = *fresh
}

// RaiseTo makes the numbering go on above what a node has seen.
func (f *Fold) RaiseTo(revision model.Revision) { f.revision = max(f.revision, revision) }

// Add takes in one record. An error says which record couldn't be read, and why; it leaves a gap. A record that isn't
// sealed by who writes the log is no part of it, and must not be added: if it stands in the place of one that was, the
// next one doesn't continue what was folded.
func (f *Fold) Add(subject string, data []byte) error {
	if err := f.add(subject, data); err != nil {
		f.miss(subject, err)
		return fmt.Errorf("fold %s: %w", subject, err)
	}
	return nil
}

func (f *Fold) add(subject string, data []byte) error {
	domain, sealed := DomainOf(subject, data)
	switch {
	case !sealed:
		return f.addEpoch(data)
	case domain == seal.Checkpoint:
		return f.addCheckpoint(data)
	case domain == seal.Snapshot:
		return f.addSnapshot(data)
	case domain == seal.Hold:
		return f.addHold(data)
	}
	f.open = nil
	f.bytesSince += len(data)
	return f.addDelta(data)
}

// miss notes that a record is missing: a checkpoint that it belongs to has broken off, and after a delta the rows are no
// longer what the log says.
func (f *Fold) miss(subject string, err error) {
	if subject == schemas.SubjectEpoch {
		return
	}
	f.open = nil
	if subject != schemas.SubjectCheckpoint && f.gap == nil {
		f.gap = err
	}
}

func (f *Fold) addEpoch(data []byte) error {
	var m schemas.Epoch
	if err := wire.Unmarshal(data, &m); err != nil {
		return err
	}
	// The holder repeats its epoch from time to time, also between the parts of a checkpoint.
	if f.open != nil && m.GetEpoch() != f.open.head.GetEpoch() {
		f.open = nil
	}
	f.epoch = max(f.epoch, model.Epoch(m.GetEpoch()))
	f.ruling = model.Epoch(m.GetEpoch())
	return nil
}

func (f *Fold) addDelta(data []byte) error {
	d, whole, err := f.assemble(data)
	if err != nil || !whole {
		return err
	}
	if f.gap != nil {
		f.met.change(&d.Change)
		return nil
	}
	return f.apply(d)
}

// assemble takes in a part of a delta, and returns all of it with the last one.
func (f *Fold) assemble(data []byte) (d model.Delta, whole bool, err error) {
	part, err := wire.DecodeDelta(data)
	if err != nil {
		return d, false, err
	}
	if part.Epoch < f.ruling {
		return d, false, nil
	}
	f.revision, f.epoch = max(f.revision, part.To), max(f.epoch, part.Epoch)
	if f.kept {
		f.outlived = f.outlived || part.Epoch > f.said()
	} else {
		f.deltas = max(f.deltas, part.Epoch)
	}
	if part.Part == 0 {
		f.raw = nil
	}
	f.raw = append(f.raw, data)
	return f.parts.Add(part)
}

// apply takes in a whole delta.
func (f *Fold) apply(d model.Delta) error {
	l := f.layers[d.Layer]
	if l == nil {
		l = newLayer(d.Layer)
		f.layers[d.Layer] = l
	}
	if l.at.Revision != d.From {
		f.met.change(&d.Change)
		return fmt.Errorf("the delta of layer %s to revision %d begins at %d, the log before it ends at %d",
			d.Layer, d.To, d.From, l.at.Revision)
	}
	f.ids.Advance(d.Committed)
	f.ids.Fold(l.rows, &d.Change, d.Committed)
	f.identity = newestIdentity(f.identity, &d.Change.Put)
	digest := l.apply(&d.Change)
	if digest != d.DigestAfter {
		return fmt.Errorf("the delta of layer %s to revision %d leads to digest %s, it should be %s",
			d.Layer, d.To, digest, d.DigestAfter)
	}
	f.recent.add(newEntry(d.Layer, l.at, d.Committed, f.raw))
	l.at, l.changed = model.Position{Epoch: d.Epoch, Revision: d.To, Digest: digest}, d.Committed
	f.committed, f.causes, f.state = d.Committed, causesToProto(d.Causes), d.StateSequence
	return nil
}

func (f *Fold) addCheckpoint(data []byte) error {
	head := &schemas.Checkpoint{}
	if err := wire.Unmarshal(data, head); err != nil {
		return err
	}
	if model.Revision(head.GetRevision()) < f.revision && model.Epoch(head.GetEpoch()) <= f.said() {
		f.open = nil
		if f.gap != nil {
			f.met.freed(freedFromProto(head.GetFreed()))
		}
		return fmt.Errorf("the checkpoint is of revision %d, the log is at %d: an old one that was put back", head.GetRevision(), f.revision)
	}
	f.open = &openCheckpoint{head: head, key: seal.KeyOf(data), left: head.GetSnapshots(), bytes: len(data), sums: sha256.New()}
	if !f.live || f.gap != nil || model.Revision(head.GetRevision()) != f.revision {
		f.open.into = NewFold(f.quarantine)
	}
	return f.closeCheckpoint()
}

// addSnapshot takes a part of a checkpoint. One without a beginning, where reading began or after it has broken off, says
// nothing but which ids there were.
func (f *Fold) addSnapshot(data []byte) error {
	o := f.open
	if o == nil {
		f.meet(data)
		return nil
	}
	o.left--
	o.bytes += len(data)
	sum := sha256.Sum256(data)
	o.sums.Write(sum[:])
	if o.into == nil {
		return f.closeCheckpoint()
	}
	part, err := wire.DecodeSnapshot(data)
	if err != nil {
		return err
	}
	snapshot, whole, err := o.parts.Add(part)
	if err != nil {
		return err
	}
	if whole {
		rows := &model.Change{Put: snapshot.Rows}
		l := newLayer(snapshot.Layer)
		o.into.ids.Fold(l.rows, rows, time.Time{})
		o.into.identity = newestIdentity(o.into.identity, &rows.Put)
		if digest := l.apply(rows); digest != snapshot.Position.Digest {
			return fmt.Errorf("the checkpoint's layer %s has digest %s, it should be %s",
				snapshot.Layer, digest, snapshot.Position.Digest)
		}
		l.at = snapshot.Position
		o.into.layers[snapshot.Layer] = l
	}
	return f.closeCheckpoint()
}

// closeCheckpoint replaces what was folded before by the checkpoint, once all of it is there.
func (f *Fold) closeCheckpoint() error {
	o := f.open
	if o.left > 0 {
		return nil
	}
	f.open = nil
	if want := o.head.GetSnapshotsDigest(); len(want) > 0 && !bytes.Equal(o.sums.Sum(nil), want) {
		return errors.New("the snapshots that follow the checkpoint are not all those that it was written with")
	}
	if o.into == nil {
		f.checkpointed, f.checkpointBytes, f.checkpointKey, f.bytesSince = o.head.GetCommitted().AsTime(), o.bytes, o.key, 0
		f.checkpointEpoch = model.Epoch(o.head.GetEpoch())
		return nil
	}
	into := o.into
	into.ids.Restore(freedFromProto(o.head.GetFreed()))
	if len(o.head.GetFreed()) >= maxFreed {
		into.ids.RestBelow(model.SetID(o.head.GetNextSet()), model.BackendID(o.head.GetNextBackend()), o.head.GetCommitted().AsTime())
	}
	into.identity = cmp.Or(model.IdentityID(o.head.GetLastIdentity()), into.identity)
	into.epoch, into.causes, into.recent = max(f.epoch, model.Epoch(o.head.GetEpoch())), f.causes, f.recent
	if f.live || f.gap != nil {
		into.recent = &recent{most: f.recent.most} // they may lead to other rows
	}
	into.revision = max(f.revision, model.Revision(o.head.GetRevision()))
	into.committed, into.state, into.live = o.head.GetCommitted().AsTime(), cmp.Or(o.head.GetStateSequence(), f.state), f.live
	into.checkpointed, into.checkpointBytes, into.checkpointKey = into.committed, o.bytes, o.key
	into.checkpointEpoch, into.replaced = model.Epoch(o.head.GetEpoch()), f.live
	into.hold, into.holdSaid = f.holdAt(o.head)
	into.ruling = f.ruling
	*f = *into
	return nil
}

// holdAt returns what is in force once a checkpoint was read, and when it was said. A checkpoint that was written before
// the newest Hold that was read, in force or over, is an old one that was put back, and says nothing about that.
func (f *Fold) holdAt(head *schemas.Checkpoint) (hold *schemas.Hold, said time.Time) {
	hold, said = head.GetHold(), head.GetCommitted().AsTime()
	if hold != nil {
		said = hold.GetSince().AsTime()
	}
	if said.Before(f.holdSaid) {
		return f.hold, f.holdSaid
	}
	if hold == nil {
		said = f.holdSaid
	}
	return hold, said
}

// newestIdentity returns the number that was given to an identity last, after some rows were put. Counting goes round.
func newestIdentity(last model.IdentityID, put *model.Rows) model.IdentityID {
	see := func(n model.IdentityID) {
		if int32(n-last) > 0 {
			last = n
		}
	}
	for _, row := range put.Peers {
		see(row.Identity)
	}
	for _, row := range put.Blocks {
		see(row.Identity)
	}
	return last
}

func freedFromProto(freed []*schemas.FreedId) (sets []ids.Freed[model.SetID], backends []ids.Freed[model.BackendID]) {
	for _, m := range freed {
		at := m.GetFreed().AsTime()
		if id := m.GetSet(); id != 0 {
			sets = append(sets, ids.Freed[model.SetID]{ID: model.SetID(id), At: at})
		}
		if id := m.GetBackend(); id != 0 {
			backends = append(backends, ids.Freed[model.BackendID]{ID: model.BackendID(id), At: at})
		}
	}
	return sets, backends
}
