// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/core"
)

// operator is who rolls back and resumes, and where answers go that nobody waits for.
const operator = "_INBOX.operator"

// rollBack has someone go back to one of the newest revisions, and resume after a while.
func (f *faults) rollBack() {
	t := f.checks.leads()
	if t == nil || t.core.Revision() < 2 {
		return
	}
	back := model.Revision(1 + f.random.IntN(min(30, int(t.core.Revision())-1)))
	t.rollBack(t.core.Revision() - back)
	f.later(f.between(100*time.Millisecond, 10*time.Second), f.resume)
}

// resume has someone resume, and see to it for a while that nothing is held: who leads may change meanwhile.
func (f *faults) resume() { f.resumeUntil(f.now.Add(resuming)) }

const resuming = 20 * time.Second

func (f *faults) resumeUntil(end time.Time) {
	if t := f.checks.leads(); t != nil && t.core.Hold() != nil {
		f.injected["resumed"]++
		t.do(t.core.Resume(t.clock(), operator, marshal(&schemas.ResumeRequest{By: operator})))
	}
	if f.now.Before(end) {
		f.after(time.Second, func() { f.resumeUntil(end) })
	}
}

// rollBack reads a revision from DELTA and goes back to it, as the service does.
func (t *compiling) rollBack(to model.Revision) {
	t.delta.read(t.process, "", time.Time{}, func(records []record, err error) {
		if err != nil || t.over || len(records) == 0 {
			return
		}
		from := checkpointBefore(records, to)
		h := core.NewHistory(to, records[from].sequence == 1)
		for _, r := range records[from:] {
			if t.believes(r) {
				h.Add(core.Record{Subject: r.subject, Data: r.data})
			}
		}
		t.do(t.core.Rollback(t.clock(), operator, &schemas.RollbackRequest{Revision: uint64(to), By: operator}, h))
	})
}

// checkpointBefore returns where the newest checkpoint begins that isn't above a revision; 0 if there is none.
func checkpointBefore(records []record, to model.Revision) (at int) {
	for i, r := range records {
		var head schemas.Checkpoint
		if r.subject != schemas.SubjectCheckpoint || core.IsSnapshot(r.data) || proto.Unmarshal(r.data, &head) != nil {
			continue
		}
		if head.GetRevision() > uint64(to) {
			break
		}
		at = i
	}
	return at
}

// leads returns the compiler that leads and runs, if there is one.
func (k *checks) leads() *compiling {
	for _, c := range k.compilers {
		if t := c.current; c.up && !c.stopped && t != nil && t.core != nil && t.core.Leads() {
			return t
		}
	}
	return nil
}
