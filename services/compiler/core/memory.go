// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Memory is what a core that follows another in the same process must know of it, in case the streams were lost or
// restored together meanwhile: then nothing else says so.
type Memory struct {
	state     uint64 // the newest message of STATE
	committed time.Time
	revision  model.Revision
}

// Memory returns what the next core must know of this one.
func (c *Core) Memory() Memory {
	return Memory{state: c.seen, committed: c.last.at, revision: c.revision}.and(c.remembered)
}

// Remember tells a core that has just begun what the one before knew.
func (c *Core) Remember(m Memory) {
	c.remembered = m
	c.RaiseTo(m.revision)
}

func (f *Fold) memory() Memory {
	return Memory{state: f.state, committed: f.committed, revision: f.revision}
}

func (m Memory) and(o Memory) Memory {
	m.state, m.revision = max(m.state, o.state), max(m.revision, o.revision)
	if o.committed.After(m.committed) {
		m.committed = o.committed
	}
	return m
}
