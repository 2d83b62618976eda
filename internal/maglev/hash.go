// SPDX-License-Identifier: Apache-2.0

package maglev

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// What hashes begin with, so that those for different purposes have nothing in common: the first digits of pi.
const (
	tupleSeed  = 0x3243f6a8885a308d
	clientSeed = 0x313198a2e0370734
	offsetSeed = 0x4a4093822299f31d
	skipSeed   = 0x0082efa98ec4e6c8
)

// mix takes eight bytes into a hash, last spreads the end of it: multiplications of MurmurHash3's finalizer, by Appleby.
func mix(hash, word uint64) uint64 {
	hash = (hash ^ word) * 0xff51afd7ed558ccd
	return hash ^ hash>>33
}

func last(hash uint64) uint64 {
	hash *= 0xc4ceb9fe1a85ec53
	return hash ^ hash>>33
}

// words are an address of 16 bytes, IPv4 mapped, as BPF programs load it.
func words(addr netip.Addr) (high, low uint64) {
	b := addr.As16()
	return binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])
}

// Hash says where a client's connection to a Service belongs, by the packet as it came from outside: protocol is its IP
// protocol number.
func Hash(client, service netip.AddrPort, protocol uint8) uint64 {
	hash := uint64(tupleSeed)
	for _, addr := range []netip.Addr{client.Addr(), service.Addr()} {
		high, low := words(addr)
		hash = mix(mix(hash, high), low)
	}
	ports := uint64(bits.ReverseBytes16(client.Port())) | uint64(bits.ReverseBytes16(service.Port()))<<16
	return last(mix(hash, ports|uint64(protocol)<<32))
}

// HashClient is Hash for Services with session affinity: a client's connections all belong to one backend.
func HashClient(client netip.Addr) uint64 {
	high, low := words(client)
	return last(mix(mix(clientSeed, high), low))
}

// SlotOf returns the slot of a hash in a table of size slots.
func SlotOf(hash uint64, size uint32) uint32 { return uint32(hash >> 32 * uint64(size) >> 32) }
