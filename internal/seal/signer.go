// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/ed25519"
	"fmt"
	"sync/atomic"
)

// Signer seals messages. A nil one seals nothing. Its methods may be called at the same time.
type Signer struct{ key atomic.Pointer[signingKey] }

type signingKey struct {
	private ed25519.PrivateKey
	id      KeyID
}

// NewSigner returns a signer by a key.
func NewSigner(key ed25519.PrivateKey) *Signer {
	s := &Signer{}
	s.Replace(key)
	return s
}

// Replace signs by another key from now on.
func (s *Signer) Replace(key ed25519.PrivateKey) {
	s.key.Store(&signingKey{key, IDOf(publicOf(key))})
}

// ID names the key by which is signed at the moment; it is zero for a nil signer.
func (s *Signer) ID() KeyID {
	if s == nil {
		return KeyID{}
	}
	return s.key.Load().id
}

// Public returns the public key of what is signed by at the moment.
func (s *Signer) Public() ed25519.PublicKey { return publicOf(s.key.Load().private) }

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:]) // as crypto/ed25519 keeps it
}

// Seal returns the messages, which are of one domain, each with a seal at its end: one signature for all of them. A
// sealed message is at most Room bytes longer. The same messages under the same key have the same seals.
func (s *Signer) Seal(d Domain, messages [][]byte) [][]byte {
	if s == nil || len(messages) == 0 {
		return messages
	}
	if len(messages) > MaxBatch {
		panic(fmt.Sprintf("seal: %d messages at once, at most %d", len(messages), MaxBatch))
	}
	leaves := make([]hash, len(messages))
	for i, m := range messages {
		leaves[i] = leafOf(d, m)
	}
	t, key := treeOf(leaves), s.key.Load()
	m := mark{key: key.id, count: uint32(len(messages))}
	m.signature = ed25519.Sign(key.private, statement(m.count, t.root()))
	sealed := make([][]byte, len(messages))
	for i, message := range messages {
		m.index = uint32(i)
		t.path(&m)
		sealed[i] = m.append(message)
	}
	return sealed
}

// SealOne seals one message.
func (s *Signer) SealOne(d Domain, message []byte) []byte {
	if s == nil {
		return message
	}
	return s.Seal(d, [][]byte{message})[0]
}
