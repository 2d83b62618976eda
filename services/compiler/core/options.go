// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
)

// Options are the compiler's settings. A zero field takes its default.
type Options struct {
	Holder   string // who leads, for people
	Settings compile.Settings
	// Changes are committed once it has been quiet for Quiet, at the latest Latest after the first.
	Quiet, Latest time.Duration // 5 ms, 50 ms
	// A node gets at most Burst messages at once, and one each PerMessage: at most 20 in any second.
	Burst      int           // 4
	PerMessage time.Duration // 1/15 s
	// Quarantine is how long a freed id stays unused.
	Quarantine time.Duration // 60 s
	// Heartbeat is how often nodes are told how far they should be.
	Heartbeat time.Duration // 1 s
	// MaxMessage bounds a message without its seal, MaxBatch and MaxBatchBytes what is appended at once.
	MaxMessage, MaxBatch, MaxBatchBytes int
	// SyncRate bounds the bytes a second that all nodes together are told of rows.
	SyncRate int // 256 MiB
	// RecentBytes bounds the deltas that are kept to answer nodes that missed some.
	RecentBytes int // 32 MiB
	// Signer seals all that decides about packets; nil seals nothing.
	Signer *seal.Signer
	// ChecksSeals says, for people, that who brings facts and records checks their seals.
	ChecksSeals bool
}

func (o Options) withDefaults() Options {
	duration := func(d *time.Duration, usual time.Duration) {
		if *d == 0 {
			*d = usual
		}
	}
	number := func(n *int, usual int) {
		if *n == 0 {
			*n = usual
		}
	}
	duration(&o.Quiet, 5*time.Millisecond)
	duration(&o.Latest, 50*time.Millisecond)
	duration(&o.PerMessage, time.Second/15)
	duration(&o.Quarantine, ids.DefaultQuarantine)
	duration(&o.Heartbeat, time.Second)
	number(&o.Burst, 4)
	number(&o.MaxMessage, schemas.MaxMessageBytes-answerRoom-seal.Room)
	number(&o.MaxBatch, 900)
	number(&o.MaxBatchBytes, 32<<20)
	number(&o.RecentBytes, recentBytes)
	number(&o.SyncRate, 256<<20)
	return o
}

// answerRoom is what a SyncReply needs around a delta or snapshot, in bytes.
const answerRoom = 64
