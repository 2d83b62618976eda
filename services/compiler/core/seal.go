// SPDX-License-Identifier: Apache-2.0

package core

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
)

// seal seals a revision's deltas together, and makes of them what is stored and published. A part of a checkpoint was
// sealed when it was encoded.
func (s *step) seal(signer *seal.Signer) {
	if len(s.entries) == 0 {
		s.records = append(s.records, s.more...)
		return
	}
	messages := make([][]byte, 0, s.messages)
	for _, e := range s.entries {
		messages = append(messages, e.messages...)
	}
	messages = signer.Seal(seal.Delta, messages)
	s.bytes, s.records, s.publish = 0, make([]Record, 0, s.messages), make([]Message, 0, s.messages)
	for i, e := range s.entries {
		sealed := newEntry(e.layer, e.from, e.at, messages[:len(e.messages):len(e.messages)])
		messages = messages[len(e.messages):]
		for _, data := range sealed.messages {
			s.records = append(s.records, Record{schemas.DeltaSubject(e.layer.String()), data})
			s.publish = append(s.publish, Message{schemas.ApplySubject(e.layer.String()), data})
		}
		s.entries[i], s.bytes = sealed, s.bytes+sealed.bytes
	}
	s.records = append(s.records, s.more...)
	s.commit.Bytes = s.bytes
}

// DomainOf returns what kind of a message a record of DELTA is, as which its seal is to be checked and it is read. An
// Epoch has none and isn't sealed: it gives no one's rows, and the stream itself fences by it.
func DomainOf(subject string, data []byte) (d seal.Domain, sealed bool) {
	switch {
	case subject == schemas.SubjectEpoch:
		return "", false
	case subject == schemas.SubjectHold:
		return seal.Hold, true
	case subject != schemas.SubjectCheckpoint:
		return seal.Delta, true
	case IsSnapshot(data):
		return seal.Snapshot, true
	}
	return seal.Checkpoint, true
}

// IsSnapshot tells a Snapshot, whose field 2 is the layer's name, from a Checkpoint, whose field 2 is a number.
func IsSnapshot(data []byte) bool {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeField(data)
		if n < 0 {
			return false
		}
		if number == fieldLayer {
			return kind == protowire.BytesType
		}
		data = data[n:]
	}
	return false
}

// fieldLayer is the number of Snapshot.layer, and of Checkpoint.revision; a test holds it to the generated code.
const fieldLayer protowire.Number = 2
