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
	// MaxMessage bounds one message, in bytes; 0 is the server's bound. MaxPerSubject is how many messages of one subject are
	// kept; 0 is no bound. Together they bound what one node can make a log forget of the others.
	MaxMessage    int32
	MaxPerSubject int64
	// LastPerSubject keeps only the newest message of each subject. A full stream then refuses what is new, where
	// a log forgets what is old.
	LastPerSubject bool
	// Atomic allows batches that are stored as a whole or not at all.
	Atomic bool
	// Expiring allows single messages to end before MaxAge (tombstones), or to outlive it (epochs).
	Expiring bool
	// Silent streams don't say that they have stored a message. Whoever reports chooses where that would go: a node could
	// have it sent to where others listen.
	Silent bool
	// Description is for people who list the streams.
	Description string
}

// MaxMessageBytes bounds every message on the bus. It leaves room for headers in the 1 MiB that a NATS server takes
// by default (max_payload).
const MaxMessageBytes = 1<<20 - 4<<10

// TombstoneTTL is how long STATE remembers that an object is gone.
const TombstoneTTL = 24 * time.Hour

// IdleReportTTL is how long APPLIED keeps reports that have no news. 5,000 nodes would fill it with them within an hour.
const IdleReportTTL = time.Minute

// MaxEventBytes bounds an Event: EVENTS doesn't keep what is larger.
const MaxEventBytes = 16 << 10

// MaxLatencies is how many latencies an Applied may have.
const MaxLatencies = 64

// CheckpointInterval is how often the leading compiler must write a Checkpoint, also when nothing changes: DELTA
// forgets by age, and what is older than the newest checkpoint is no longer needed to fold it.
const CheckpointInterval = 12 * time.Hour

// The streams. A server reserves MaxBytes of each, so that together they must fit a small machine: 3.75 GiB. A
// cluster of 5,000 nodes and 150,000 pods has some 100 MB of facts.
var (
	StateFacts = Stream{
		Name: "STATE", Subjects: []string{SubjectAllState, SubjectStateEpoch}, MaxBytes: 1 << 30,
		LastPerSubject: true, Atomic: true, Expiring: true,
		Description: "The last Fact of each object, written by the leading watcher.",
	}
	Deltas = Stream{
		Name: "DELTA", Subjects: []string{SubjectAllDeltas}, MaxAge: 72 * time.Hour, MaxBytes: 2 << 30,
		Atomic: true, Expiring: true,
		Description: "Every Delta, with checkpoints to fold from, written by the leading compiler.",
	}
	AppliedReports = Stream{
		Name: "APPLIED", Subjects: []string{SubjectAllApplied}, MaxAge: 72 * time.Hour, MaxBytes: 512 << 20, Silent: true, Expiring: true,
		Description: "What each node has in its kernel, and when it got there.",
	}
	EventLog = Stream{
		Name: "EVENTS", Subjects: []string{SubjectAllEvents}, MaxAge: 72 * time.Hour, MaxBytes: 256 << 20, Silent: true,
		MaxMessage: MaxEventBytes, MaxPerSubject: 4096, // 64 MiB: a quarter of the stream for one node
		Description: "What people should know: objects set aside, drift, drops.",
	}
)

// Streams lists all streams.
var Streams = []Stream{StateFacts, Deltas, AppliedReports, EventLog}

// MaxUplinks is how many interfaces an Applied names.
const MaxUplinks = 64
