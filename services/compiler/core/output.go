// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Record is a message to append to DELTA.
type Record struct {
	Subject string
	Data    []byte
}

// Message is a message to publish.
type Message struct {
	Subject string
	Data    []byte
}

// Output is what the core wants done. Append first: what depends on it comes out of Appended.
type Output struct {
	// Append is stored as a whole or not at all; then Appended is called. Until then no other comes.
	Append  []Record
	Publish []Message
	Answers []Answer
	Events  []*schemas.Event
	// Commits are revisions that the log has accepted, for metrics.
	Commits []Commit
	// Mismatch is set when an incremental compilation was found to differ from a full one.
	Mismatch *Mismatch
	// Reread says why what was read of the streams is no longer trusted: fold and read them anew.
	Reread string
	// Outranked says that a node holds what another log said, of an epoch not below this compiler's: the log was lost or
	// rolled back. Take an epoch above Epoch and fold anew.
	Outranked *Outranked
}

// Outranked is what a node says that it has seen.
type Outranked struct {
	Node     string
	Epoch    model.Epoch
	Revision model.Revision
}

// Commit says what one revision was.
type Commit struct {
	Revision model.Revision
	Layers   int
	Rows     int // put and removed
	Bytes    int // of all messages
	Oldest   time.Time
}

// Add adds what another output wants done after this one.
func (o *Output) Add(p Output) {
	if p.Append != nil {
		o.Append = p.Append
	}
	o.Publish = append(o.Publish, p.Publish...)
	o.Answers = append(o.Answers, p.Answers...)
	o.Events = append(o.Events, p.Events...)
	o.Commits = append(o.Commits, p.Commits...)
	if p.Mismatch != nil {
		o.Mismatch = p.Mismatch
	}
	if p.Reread != "" {
		o.Reread = p.Reread
	}
	if p.Outranked != nil {
		o.Outranked = p.Outranked
	}
}
