// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/ed25519"
	"fmt"
	"sync"
)

// Trust opens what was sealed by one of its keys. Its methods may be called at the same time.
type Trust struct {
	mu   sync.Mutex
	keys map[KeyID]ed25519.PublicKey
	// known are batches whose signature was checked; order is the ring in which they are forgotten.
	known map[batch]struct{}
	order []batch
	next  int
}

// batch is messages that were sealed together.
type batch struct {
	key   KeyID
	count uint32
	root  hash
}

// remembered bounds the batches that are known: what is read together was mostly sealed together, or shortly before.
const remembered = 4096

// NewTrust returns what trusts these keys.
func NewTrust(keys ...ed25519.PublicKey) *Trust {
	t := &Trust{}
	t.Replace(keys...)
	return t
}

// Replace trusts other keys from now on, and only those.
func (t *Trust) Replace(keys ...ed25519.PublicKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys = make(map[KeyID]ed25519.PublicKey, len(keys))
	for _, k := range keys {
		t.keys[IDOf(k)] = k
	}
	t.known, t.order, t.next = map[batch]struct{}{}, nil, 0
}

// Open returns what is sealed of a message of a domain: all of it but the seal. An error is an ErrUnsealed and says what
// is wrong with the seal; nothing of the message may be used then.
func (t *Trust) Open(d Domain, data []byte) (body []byte, err error) {
	body, sealed, err := split(data)
	if err != nil {
		return nil, err
	}
	m, err := parse(sealed)
	if err != nil {
		return nil, err
	}
	root, ok := m.rootBy(leafOf(d, body))
	if !ok {
		return nil, unsealed("its seal has a way to the root that can't be one")
	}
	b := batch{m.key, m.count, root}
	key, known := t.look(b)
	switch {
	case known:
		return body, nil
	case key == nil:
		return nil, fmt.Errorf("%w: %s", ErrUnknownKey, m.key)
	case !ed25519.Verify(key, statement(m.count, root), m.signature):
		return nil, unsealed("key %s didn't sign this as a message of kind %s", m.key, d)
	}
	t.remember(b, key)
	return body, nil
}

// look returns the key of a batch, none if it isn't trusted, and whether the batch's signature was checked before.
func (t *Trust) look(b batch) (key ed25519.PublicKey, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, known = t.known[b]
	return t.keys[b.key], known
}

// remember notes that a batch was signed by a key, unless that was given up meanwhile.
func (t *Trust) remember(b batch, key ed25519.PublicKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.known[b]; known || !key.Equal(t.keys[b.key]) {
		return
	}
	t.known[b] = struct{}{}
	if len(t.order) < remembered {
		t.order = append(t.order, b)
		return
	}
	delete(t.known, t.order[t.next])
	t.order[t.next] = b
	t.next = (t.next + 1) % remembered
}

// Has says whether a key is trusted.
func (t *Trust) Has(key KeyID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys[key] != nil
}
