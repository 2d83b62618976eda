// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/schemas"
)

func key(number byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{number}, ed25519.SeedSize))
}

func public(number byte) ed25519.PublicKey { return publicOf(key(number)) }

func deltas(n int) (messages [][]byte) {
	for i := range n {
		data, err := proto.Marshal(&schemas.Delta{Epoch: 1, Layer: fmt.Sprintf("node.n%d", i), To: uint64(i) + 1, Parts: 1})
		if err != nil {
			panic(err)
		}
		messages = append(messages, data)
	}
	return messages
}

func TestSealedMessagesOpenToWhatTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		messages := deltas(rapid.IntRange(1, 70).Draw(t, "messages"))
		trust := NewTrust(public(1), public(2))
		for i, sealed := range NewSigner(key(2)).Seal(Delta, messages) {
			got, err := trust.Open(Delta, sealed)
			if err != nil || !bytes.Equal(got, messages[i]) {
				t.Fatalf("message %d of %d opens to %x, %v; want %x", i, len(messages), got, err, messages[i])
			}
			if len(sealed) > len(messages[i])+Room {
				t.Fatalf("the seal takes %d bytes, want at most %d", len(sealed)-len(messages[i]), Room)
			}
		}
	})
}

// Promise P7: whatever one bit of a sealed message is turned, nothing of it is used, unless it stays what was sealed.
func TestATurnedBitIsRefused(t *testing.T) {
	messages, trusted := deltas(5), public(1)
	for i, sealed := range NewSigner(key(1)).Seal(Delta, messages) {
		for bit := range len(sealed) * 8 {
			bad := bytes.Clone(sealed)
			bad[bit/8] ^= 1 << (bit % 8)
			got, err := NewTrust(trusted).Open(Delta, bad)
			if err == nil {
				t.Fatalf("message %d with bit %d turned opens to %x", i, bit, got)
			}
			if !errors.Is(err, ErrUnsealed) {
				t.Fatalf("message %d with bit %d turned: %v, want an ErrUnsealed", i, bit, err)
			}
		}
	}
}

func TestWhatIsNotSealedByATrustedKeyIsRefused(t *testing.T) {
	plain := deltas(3)
	sealed := NewSigner(key(1)).Seal(Delta, plain)
	other := NewSigner(key(1)).Seal(Delta, plain[:2])
	swap := func(body, seal []byte) []byte {
		b, _, _ := split(body)
		whole, _, _ := split(seal)
		return append(bytes.Clone(b), seal[len(whole):]...)
	}
	for name, c := range map[string]struct {
		domain Domain
		data   []byte
	}{
		"nothing":                       {Delta, nil},
		"no protobuf":                   {Delta, []byte("hello")},
		"without a seal":                {Delta, plain[0]},
		"of another kind":               {Snapshot, sealed[0]},
		"another's seal":                {Delta, swap(sealed[1], sealed[0])},
		"the seal of another batch":     {Delta, swap(sealed[0], other[1])},
		"sealed by an unknown key":      {Delta, NewSigner(key(9)).SealOne(Delta, plain[0])},
		"cut short":                     {Delta, sealed[0][:len(sealed[0])-1]},
		"with more after the seal":      {Delta, append(bytes.Clone(sealed[0]), 0x08, 0x01)},
		"with two seals":                {Delta, append(bytes.Clone(sealed[0]), sealed[0][len(plain[0]):]...)},
		"sealed twice, the outer taken": {Delta, NewSigner(key(9)).SealOne(Delta, sealed[0])},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := NewTrust(public(1), public(2)).Open(c.domain, c.data); !errors.Is(err, ErrUnsealed) {
				t.Fatalf("it opens to %x, %v", got, err)
			}
		})
	}
}

func TestOnlyAMissingKeyIsUnknown(t *testing.T) {
	sealed := NewSigner(key(1)).SealOne(Fact, []byte{})
	if _, err := NewTrust(public(2)).Open(Fact, sealed); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a key that isn't trusted: %v, want ErrUnknownKey", err)
	}
	if _, err := NewTrust(public(1)).Open(Delta, sealed); errors.Is(err, ErrUnknownKey) {
		t.Errorf("a seal of another domain: %v, want no ErrUnknownKey", err)
	}
}

func TestAGivenUpKeyOpensNothingAnyMore(t *testing.T) {
	sealed := NewSigner(key(1)).Seal(Delta, deltas(2))
	trust := NewTrust(public(1))
	if _, err := trust.Open(Delta, sealed[0]); err != nil {
		t.Fatal(err)
	}
	trust.Replace(public(2))
	if _, err := trust.Open(Delta, sealed[1]); !errors.Is(err, ErrUnknownKey) {
		t.Fatalf("a message of a batch that was known opens by a key that was given up: %v", err)
	}
}

func TestOnlySoManyBatchesAreRemembered(t *testing.T) {
	trusted := public(1)
	trust := NewTrust(trusted)
	for i := range 2*remembered + 1 {
		trust.remember(batch{key: IDOf(trusted), count: uint32(i) + 1}, trusted)
	}
	if len(trust.known) != remembered || len(trust.order) != remembered {
		t.Fatalf("%d batches are known, %d in order, want %d", len(trust.known), len(trust.order), remembered)
	}
}

func TestNothingIsSealedWithoutAKey(t *testing.T) {
	var s *Signer
	if got := s.SealOne(Delta, []byte("x")); string(got) != "x" || s.ID() != (KeyID{}) {
		t.Fatalf("a nil signer makes %q of x, by key %s", got, s.ID())
	}
}

// The message can be read without knowing of seals, and the seal by whoever has only the schema.
func TestSealIsTheFieldOfTheSchema(t *testing.T) {
	messages := deltas(3)
	var plain, sealed schemas.Delta
	data := NewSigner(key(1)).Seal(Delta, messages)[1]
	if err := errors.Join(proto.Unmarshal(messages[1], &plain), proto.Unmarshal(data, &sealed)); err != nil {
		t.Fatal(err)
	}
	id := IDOf(public(1))
	s := sealed.GetSeal()
	if s.GetIndex() != 1 || s.GetCount() != 3 || len(s.GetPath()) != 2 || len(s.GetSignature()) != 64 || !bytes.Equal(s.GetKey(), id[:]) {
		t.Fatalf("the seal reads as %v", s)
	}
	again, err := proto.Marshal(&schemas.Delta{Seal: s})
	if err != nil || !bytes.Equal(again, data[len(messages[1]):]) {
		t.Fatalf("the seal is %x, protobuf writes %x (%v)", data[len(messages[1]):], again, err)
	}
	sealed.Seal = nil
	if !proto.Equal(&plain, &sealed) {
		t.Fatalf("with a seal it reads as %v, without as %v", &sealed, &plain)
	}
	for _, m := range []proto.Message{&schemas.Delta{}, &schemas.Snapshot{}, &schemas.Heartbeat{}, &schemas.Checkpoint{}, &schemas.Fact{}} {
		if f := m.ProtoReflect().Descriptor().Fields().ByName("seal"); f.Number() != fieldSeal {
			t.Errorf("%s has its seal in field %d, want %d", m.ProtoReflect().Descriptor().Name(), f.Number(), fieldSeal)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, sealed := range NewSigner(key(1)).Seal(Delta, deltas(3)) {
		f.Add(sealed)
	}
	f.Add([]byte{0xa2, 0x06, 0x00})
	trust, seen := NewTrust(public(1)), map[string]bool{}
	for _, m := range deltas(3) {
		seen[string(m)] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if body, err := trust.Open(Delta, data); err == nil && !seen[string(body)] {
			t.Fatalf("%x opens to %x, which nobody sealed", data, body)
		}
	})
}
