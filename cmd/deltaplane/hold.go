// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// holdJSON is a rollback that is held.
type holdJSON struct {
	Revision   uint64     `json:"revision"`
	RolledBack uint64     `json:"rolledBack"` // the revision before
	By         string     `json:"by"`
	Since      *time.Time `json:"since"`
	Changes    uint64     `json:"changes"` // of objects, that wait
}

func holdFromProto(m *schemas.Hold) *holdJSON {
	if m == nil {
		return nil
	}
	return &holdJSON{m.GetRevision(), m.GetRolledBack(), m.GetBy(), timeOf(m.GetSince()), m.GetChanges()}
}

// text says it to people, in one line.
func (h *holdJSON) text(now time.Time) string {
	text := fmt.Sprintf("all nodes are held at what was revision %s, which %s rolled back to from %s", grouped(h.Revision), h.By, grouped(h.RolledBack))
	if h.Since != nil {
		text += " " + ago(now, *h.Since)
	}
	return text + fmt.Sprintf(": %s changes of objects wait for 'deltaplane resume'", grouped(h.Changes))
}
