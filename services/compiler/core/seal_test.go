// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
)

func otherKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{7}, ed25519.SeedSize))
}

// Promise P7: a revision's deltas are signed together, once.
func TestARevisionIsOneSignature(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	w.forget()
	w.facts(serviceFact(9), sliceFact(9, 0, 3, w.now), podFact("c", "n1", "10.200.0.2"), podFact("d", "n2", "10.200.0.3"))
	w.pass(time.Second)
	signatures := map[string]uint32{}
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer("n1"), model.NodeLayer("n2")} {
		for _, d := range w.heard(l) {
			signatures[string(d.GetSeal().GetSignature())]++
			if d.GetSeal().GetCount() != 3 {
				t.Errorf("the delta of layer %s is one of %d messages, want 3", l, d.GetSeal().GetCount())
			}
		}
	}
	if len(signatures) != 1 {
		t.Errorf("%d signatures for one revision, want 1", len(signatures))
	}
}

func TestAnotherKeyBeginsACheckpoint(t *testing.T) {
	mine := seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	w := shop(t, Options{}, 3, 2)
	w.core.o.Signer = mine
	w.pass(time.Second)
	before := len(w.log)
	w.pass(time.Second)
	if len(w.log) != before {
		t.Fatalf("%d records were written without a reason", len(w.log)-before)
	}
	mine.Replace(otherKey())
	trust.Replace(mine.Public(), signer.Public())
	defer trust.Replace(signer.Public())
	w.pass(time.Second)
	if len(w.log) == before {
		t.Fatal("no checkpoint was written by the new key")
	}
	f := NewFold(0)
	for _, r := range w.log[before:] {
		if id := seal.KeyOf(r.Data); id != mine.ID() {
			t.Errorf("a record on %s is sealed by %s, want the new key %s", r.Subject, id, mine.ID())
		}
		if err := f.Add(r.Subject, r.Data); err != nil {
			t.Fatal(err)
		}
	}
	if !f.Checkpointed() || f.checkpointKey != mine.ID() {
		t.Errorf("what the new key has sealed folds to a checkpoint: %t, of key %s", f.Checkpointed(), f.checkpointKey)
	}
}

func TestDeltasOfAnotherKeyAreNotGiven(t *testing.T) {
	r := recent{most: 1 << 20}
	key := seal.NewSigner(otherKey())
	for i, s := range []*seal.Signer{signer, signer, key, key} {
		r.add(newEntry(model.ClusterLayer, model.Position{Revision: model.Revision(i)}, start, [][]byte{s.SealOne(seal.Delta, []byte{})}))
	}
	for revision, want := range []int{0, 0, 2, 1} {
		messages, ok := r.since(model.ClusterLayer, model.Position{Revision: model.Revision(revision)}, key.ID())
		if ok != (want > 0) || len(messages) != want && ok {
			t.Errorf("since revision %d: %d messages, %t; want %d", revision, len(messages), ok, want)
		}
	}
}

// What a checkpoint consists of lies on one subject: neither part can be read as the other.
func TestACheckpointAndItsSnapshotsAreToldApart(t *testing.T) {
	head := marshal(&schemas.Checkpoint{Epoch: 1, Revision: 2, Snapshots: 3})
	chunk := marshal(&schemas.Snapshot{Epoch: 1, Layer: "cluster", Revision: 2, Chunks: 1})
	for _, c := range []struct {
		subject string
		data    []byte
		want    seal.Domain
	}{
		{schemas.SubjectCheckpoint, head, seal.Checkpoint},
		{schemas.SubjectCheckpoint, chunk, seal.Snapshot},
		{schemas.SubjectCheckpoint, nil, seal.Checkpoint},
		{schemas.SubjectCheckpoint, []byte("\xff"), seal.Checkpoint},
		{schemas.DeltaSubject("cluster"), chunk, seal.Delta},
	} {
		if got, sealed := DomainOf(c.subject, c.data); got != c.want || !sealed {
			t.Errorf("%x on %s is a %s, want a %s", c.data, c.subject, got, c.want)
		}
	}
	if _, sealed := DomainOf(schemas.SubjectEpoch, head); sealed {
		t.Error("an Epoch is taken for sealed")
	}
	for _, c := range []struct {
		m    proto.Message
		name string
	}{{&schemas.Snapshot{}, "layer"}, {&schemas.Checkpoint{}, "revision"}} {
		fields := c.m.ProtoReflect().Descriptor().Fields()
		if f := fields.ByNumber(fieldLayer); string(f.Name()) != c.name {
			t.Errorf("field %d of %s is %s, want %s", fieldLayer, c.m.ProtoReflect().Descriptor().Name(), f.Name(), c.name)
		}
	}
	f := NewFold(0)
	if err := f.Add(schemas.SubjectCheckpoint, chunk); err != nil || f.Checkpointed() {
		t.Errorf("a snapshot without a checkpoint: %v, taken for one: %t", err, f.Checkpointed())
	}
}

func TestHeartbeatsAreDatedInOrderEvenIfTheClockGoesBack(t *testing.T) {
	w := shop(t, Options{}, 1, 1)
	w.forget()
	var last time.Time
	for _, step := range []time.Duration{2 * time.Second, -time.Hour, 0, time.Second} {
		w.now, w.core.beat = w.now.Add(step), w.now.Add(step)
		for _, m := range w.core.heartbeat(w.now).Publish {
			var beat schemas.Heartbeat
			if err := proto.Unmarshal(m.Data, &beat); err != nil {
				t.Fatal(err)
			}
			if sent := beat.GetSent().AsTime(); !sent.After(last) {
				t.Errorf("a heartbeat is dated %s, the one before %s", sent, last)
			} else {
				last = sent
			}
		}
	}
}

// Promise P7: a checkpoint is folded only with the snapshots that it was written with, however well others are sealed.
func TestSnapshotsOfAnotherCheckpointAreNotFolded(t *testing.T) {
	w := shop(t, Options{}, 3, 2)
	checkpoint := func() []Record {
		t.Helper()
		before := len(w.log)
		w.core.checkpoint.last = time.Time{}
		w.pass(time.Second)
		written := slices.DeleteFunc(slices.Clone(w.log[before:]), func(r Record) bool { return r.Subject != schemas.SubjectCheckpoint })
		if len(written) < 2 {
			t.Fatalf("a checkpoint of %d records was written", len(written))
		}
		return written
	}
	first := checkpoint()
	w.facts(serviceFact(9), sliceFact(9, 0, 3, w.now))
	w.pass(time.Second)
	second := checkpoint()
	if len(first) != len(second) {
		t.Fatalf("%d and %d records, want as many", len(first), len(second))
	}
	fold := func(records []Record) (f *Fold, err error) {
		f = NewFold(0)
		for _, r := range records {
			err = errors.Join(err, f.Add(r.Subject, r.Data))
		}
		return f, err
	}
	if f, err := fold(second); err != nil || !f.Checkpointed() {
		t.Fatalf("the checkpoint itself isn't folded: %v", err)
	}
	for i := 1; i < len(second); i++ {
		mixed := slices.Clone(second)
		if mixed[i] = first[i]; string(first[i].Data) == string(second[i].Data) {
			continue
		}
		if f, err := fold(mixed); err == nil || f.Checkpointed() {
			t.Errorf("with snapshot %d of another checkpoint it is folded (%v)", i, err)
		}
	}
}

// Promise P7: a checkpoint that is older than the log before it was put back by someone: its rows and ids are not taken in.
func TestAnOldCheckpointThatIsPutBackIsPassedOver(t *testing.T) {
	w := shop(t, Options{}, 5, 2)
	first := slices.IndexFunc(w.log, func(r Record) bool { return r.Subject == schemas.SubjectCheckpoint })
	old := slices.Clone(w.log[first:])
	w.facts(sliceFact(1, 0, 3, w.now))
	w.pass(time.Second)
	f := NewFold(0)
	for _, r := range w.log {
		if err := f.Add(r.Subject, r.Data); err != nil {
			t.Fatal(err)
		}
	}
	want := f.layers[model.ClusterLayer].at
	if err := f.Add(old[0].Subject, old[0].Data); err == nil {
		t.Error("an old checkpoint was taken in")
	}
	for _, r := range old[1:] {
		_ = f.Add(r.Subject, r.Data) // snapshots without a head
	}
	if got := f.layers[model.ClusterLayer].at; got != want || f.Whole() != nil {
		t.Errorf("the cluster layer is at %v, want %v (%v)", got, want, f.Whole())
	}
}
