// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"fmt"
	"testing"
)

// One revision for the cluster and its nodes is one batch.
func BenchmarkSeal(b *testing.B) {
	for _, n := range []int{1, 10, 900} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			messages, s := sized(n, 400), NewSigner(key(1))
			b.ReportAllocs()
			for b.Loop() {
				s.Seal(Delta, messages)
			}
		})
	}
}

// What a node pays for one message: of a batch that is new to it, and of one of which it has had a message.
func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{400, 1 << 20} {
		sealed := NewSigner(key(1)).Seal(Delta, sized(900, size/900+400))
		if size > 400 {
			sealed = NewSigner(key(1)).Seal(Delta, sized(2, size))
		}
		b.Run(fmt.Sprintf("new,bytes=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				t := NewTrust(public1)
				if _, err := t.Open(Delta, sealed[1]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("known,bytes=%d", size), func(b *testing.B) {
			t := NewTrust(public1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := t.Open(Delta, sealed[1]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var public1 = public(1)

func sized(n, size int) [][]byte {
	messages := make([][]byte, n)
	for i := range messages {
		// One field of bytes that fills the message.
		m := append([]byte{0x0a, byte(size&0x7f | 0x80), byte(size>>7&0x7f | 0x80), byte(size >> 14)}, make([]byte, size)...)
		m[4] = byte(i)
		messages[i] = m
	}
	return messages
}

func TestCostInAllocations(t *testing.T) {
	messages, s := sized(900, 400), NewSigner(key(1))
	sealed := s.Seal(Delta, messages)
	if n := testing.AllocsPerRun(10, func() { s.Seal(Delta, messages) }); n > 2000 {
		t.Errorf("sealing 900 messages takes %.0f allocations, want about two a message", n)
	}
	trust := NewTrust(public1)
	if n := testing.AllocsPerRun(100, func() { _, _ = trust.Open(Delta, sealed[7]) }); n > 2 {
		t.Errorf("opening a message of a known batch takes %.0f allocations, want at most 2", n)
	}
}
