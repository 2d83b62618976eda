// SPDX-License-Identifier: Apache-2.0

// Package seal proves who said a message. A Signer seals messages that are said together with one Ed25519 signature;
// Trust opens what one of its keys has sealed and refuses everything else.
//
// It promises that what Trust opens was sealed, byte for byte, by the holder of a trusted key, as a message of just that
// domain: no message can stand for one of another kind. It doesn't promise that a message is new: whoever acts on one
// compares its epoch, revision or time with what is known.
//
// The one thing to know before changing it: a sealed message is the plain message with one more field at its end (see
// schemas/deltaplane/v1/seal.proto). Readers that don't check decode it as before, and whoever hands messages on must
// hand on their bytes.
package seal

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Domain is the kind of a message. It is part of what is signed.
type Domain string

// The domains there are.
const (
	Delta      Domain = "delta"
	Snapshot   Domain = "snapshot"
	Branches   Domain = "branches"
	Heartbeat  Domain = "heartbeat"
	Checkpoint Domain = "checkpoint"
	Fact       Domain = "fact"
	Hold       Domain = "hold"
)

// The bounds of a seal.
const (
	// Room is what a seal adds to a message, in bytes, at most.
	Room = 1 << 10
	// MaxBatch is how many messages can be sealed together.
	MaxBatch = 1 << maxPath
	// maxPath is the longest way to a root.
	maxPath = 20
)

// ErrUnsealed says that a message has no seal by a trusted key. Errors that wrap it say why.
var ErrUnsealed = errors.New("not sealed by a trusted key")

// ErrUnknownKey is an ErrUnsealed: the seal may be good, but is of a key that isn't trusted, or not yet.
var ErrUnknownKey = fmt.Errorf("%w: the key is unknown here", ErrUnsealed)

// KeyID names a key: the first 8 bytes of the SHA-256 of the public key's 32 bytes.
type KeyID [8]byte

// IDOf returns the name of a key.
func IDOf(key ed25519.PublicKey) KeyID {
	sum := sha256.Sum256(key)
	return KeyID(sum[:8])
}

// String returns the name in hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// signed begins what is signed: no signature made for something else can be one for a seal.
const signed = "deltaplane.v1.Seal\x00"

// statement returns what is signed for a batch: the prefix, count in 4 bytes, big endian, and the root.
func statement(count uint32, root hash) []byte {
	b := make([]byte, 0, len(signed)+4+len(root))
	b = append(b, signed...)
	b = append(b, byte(count>>24), byte(count>>16), byte(count>>8), byte(count))
	return append(b, root[:]...)
}

// Field numbers of seal.proto and of the field that holds it; a test holds them to the generated code.
const (
	fieldSeal      protowire.Number = 100
	fieldKey       protowire.Number = 1
	fieldSignature protowire.Number = 2
	fieldIndex     protowire.Number = 3
	fieldCount     protowire.Number = 4
	fieldPath      protowire.Number = 5
)

// mark is a decoded Seal. Its slices are parts of the message.
type mark struct {
	key          KeyID
	signature    []byte
	index, count uint32
	path         [maxPath][]byte
	pathLength   int
}

// append adds the mark to a message.
func (m *mark) append(message []byte) []byte {
	size := protowire.SizeTag(fieldKey)*3 + protowire.SizeBytes(len(m.key)) + protowire.SizeBytes(len(m.signature)) +
		protowire.SizeVarint(uint64(m.count)) + m.pathLength*(1+protowire.SizeBytes(len(hash{})))
	if m.index > 0 {
		size += 1 + protowire.SizeVarint(uint64(m.index))
	}
	b := make([]byte, 0, len(message)+protowire.SizeTag(fieldSeal)+protowire.SizeBytes(size))
	b = append(b, message...)
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldSeal, protowire.BytesType), uint64(size))
	b = protowire.AppendBytes(protowire.AppendTag(b, fieldKey, protowire.BytesType), m.key[:])
	b = protowire.AppendBytes(protowire.AppendTag(b, fieldSignature, protowire.BytesType), m.signature)
	if m.index > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldIndex, protowire.VarintType), uint64(m.index))
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldCount, protowire.VarintType), uint64(m.count))
	for _, p := range m.path[:m.pathLength] {
		b = protowire.AppendBytes(protowire.AppendTag(b, fieldPath, protowire.BytesType), p)
	}
	return b
}

// split finds the seal at the end of a message. A seal anywhere else is none: what is sealed is all before it.
func split(data []byte) (body, sealed []byte, err error) {
	for rest := data; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, nil, unsealed("it is no message: %w", protowire.ParseError(n))
		}
		if number == fieldSeal && kind == protowire.BytesType {
			value, size := protowire.ConsumeBytes(rest[n:])
			if size < 0 || n+size != len(rest) {
				return nil, nil, unsealed("its seal isn't the last that it has")
			}
			return data[:len(data)-len(rest)], value, nil
		}
		size := protowire.ConsumeFieldValue(number, kind, rest[n:])
		if size < 0 {
			return nil, nil, unsealed("it is no message: %w", protowire.ParseError(size))
		}
		rest = rest[n+size:]
	}
	return nil, nil, unsealed("it has no seal")
}

// parse decodes a seal.
func parse(data []byte) (m mark, err error) {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return m, unsealed("its seal can't be read: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(number, kind, data[n:])
		if size < 0 {
			return m, unsealed("its seal can't be read: %w", protowire.ParseError(size))
		}
		if err := m.set(number, kind, data[n:n+size]); err != nil {
			return m, err
		}
		data = data[n+size:]
	}
	switch {
	case len(m.signature) != ed25519.SignatureSize:
		return m, unsealed("its signature has %d bytes, want %d", len(m.signature), ed25519.SignatureSize)
	case m.count == 0 || m.count > MaxBatch || m.index >= m.count:
		return m, unsealed("its seal is number %d of %d", m.index, m.count)
	}
	return m, nil
}

// set takes one field of a seal. One that isn't known is passed over.
func (m *mark) set(number protowire.Number, kind protowire.Type, value []byte) error {
	switch {
	case kind == protowire.VarintType && (number == fieldIndex || number == fieldCount):
		v, _ := protowire.ConsumeVarint(value)
		if v > MaxBatch {
			return unsealed("its seal speaks of %d messages", v)
		}
		if number == fieldIndex {
			m.index = uint32(v)
		} else {
			m.count = uint32(v)
		}
	case kind == protowire.BytesType && number >= fieldKey && number <= fieldPath:
		return m.setBytes(number, value)
	}
	return nil
}

func (m *mark) setBytes(number protowire.Number, value []byte) error {
	v, _ := protowire.ConsumeBytes(value)
	switch number {
	case fieldKey:
		if len(v) != len(m.key) {
			return unsealed("its seal names a key by %d bytes, want %d", len(v), len(m.key))
		}
		m.key = KeyID(v)
	case fieldSignature:
		m.signature = v
	case fieldPath:
		if len(v) != len(hash{}) || m.pathLength == maxPath {
			return unsealed("its seal has a way to the root that can't be one")
		}
		m.path[m.pathLength] = v
		m.pathLength++
	}
	return nil
}

func unsealed(format string, v ...any) error {
	return fmt.Errorf("%w: %w", ErrUnsealed, fmt.Errorf(format, v...))
}

// KeyOf returns the name of the key that a message says it is sealed by, checking nothing; zero if it has no seal.
func KeyOf(data []byte) KeyID {
	_, sealed, err := split(data)
	if err != nil {
		return KeyID{}
	}
	m, err := parse(sealed)
	if err != nil {
		return KeyID{}
	}
	return m.key
}
