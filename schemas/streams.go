// SPDX-License-Identifier: Apache-2.0

package schemas

import "time"

// Stream says how the bus keeps a set of subjects. internal/bus creates and updates streams from these.
type Stream struct {
	Name     string
	Subjects []string
	// MaxAge is how long messages are kept; 0 keeps them for ever.
	MaxAge time.Duration
	// MaxBytes bounds the stream's size.
	MaxBytes int64
	// LastPerSubject keeps only the newest message of each subject.
	LastPerSubject bool
	// Atomic allows batches that are stored as a whole or not at all.
	Atomic bool
	// Expiring allows single messages to end before MaxAge (tombstones).
	Expiring bool
	// Description is for people who list the streams.
	Description string
}

// MaxMessageBytes bounds every message on the bus. The server's max_payload must be at least this.
const MaxMessageBytes = 1 << 20

// TombstoneTTL is how long STATE remembers that an object is gone.
const TombstoneTTL = 24 * time.Hour

// The streams.
var (
	StateFacts = Stream{
		Name: "STATE", Subjects: []string{SubjectAllState, SubjectStateEpoch}, MaxBytes: 8 << 30,
		LastPerSubject: true, Atomic: true, Expiring: true,
		Description: "The last Fact of each object, written by the leading watcher.",
	}
	Deltas = Stream{
		Name: "DELTA", Subjects: []string{SubjectAllDeltas}, MaxAge: 72 * time.Hour, MaxBytes: 16 << 30, Atomic: true,
		Description: "Every Delta, with checkpoints to fold from, written by the leading compiler.",
	}
	AppliedReports = Stream{
		Name: "APPLIED", Subjects: []string{SubjectAllApplied}, MaxAge: 72 * time.Hour, MaxBytes: 4 << 30,
		Description: "What each node has in its kernel, and when it got there.",
	}
	EventLog = Stream{
		Name: "EVENTS", Subjects: []string{SubjectAllEvents}, MaxAge: 72 * time.Hour, MaxBytes: 1 << 30,
		Description: "What people should know: objects set aside, drift, drops.",
	}
)

// Streams lists all streams.
var Streams = []Stream{StateFacts, Deltas, AppliedReports, EventLog}
