// SPDX-License-Identifier: Apache-2.0

package model

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
)

// Digest is a hash of a set of rows that can be kept up to date row by row: the sum, in two lanes modulo 2^64,
// of a SHA-256 prefix of each row's canonical bytes. Equal rows give equal digests in any order. It finds
// drift and faults; it is no defence against someone who can choose rows.
type Digest [2]uint64

// String returns 32 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d.Bytes()) }

// Bytes returns the 16 bytes of d, big endian.
func (d Digest) Bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, d[0])
	return binary.BigEndian.AppendUint64(b, d[1])
}

// DigestOf reads the 16 bytes that Bytes makes.
func DigestOf(b []byte) (Digest, error) {
	if len(b) != 16 {
		return Digest{}, fmt.Errorf("digest of %d bytes: want 16", len(b))
	}
	return Digest{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

// canonical is a row's own bytes: a table tag, then every field in order, fixed width, big endian; strings
// with their length before them.
type canonical interface {
	appendCanonical(b []byte) []byte
}

// sum is a Digest being moved row by row, with room for a row's bytes.
type sum struct {
	Digest
	buf []byte
}

func newSum(start Digest) *sum { return &sum{Digest: start, buf: make([]byte, 0, 512)} }

func (s *sum) add(r canonical) {
	a, b := s.lanes(r)
	s.Digest[0] += a
	s.Digest[1] += b
}

func (s *sum) remove(r canonical) {
	a, b := s.lanes(r)
	s.Digest[0] -= a
	s.Digest[1] -= b
}

func (s *sum) lanes(r canonical) (uint64, uint64) {
	hash := sha256.Sum256(r.appendCanonical(s.buf[:0]))
	return binary.BigEndian.Uint64(hash[:]), binary.BigEndian.Uint64(hash[8:])
}

// Key returns what the client dials.
func (f Frontend) Key() FrontendKey { return f.FrontendKey }

// Key returns the set's id.
func (s BackendSet) Key() SetID { return s.ID }

// Key returns the backend's id.
func (r Backend) Key() BackendID { return r.ID }

// Key returns what leads to the view's target.
func (v View) Key() ViewKey { return v.ViewKey }

// Key returns the range itself: a range has nothing but its key.
func (r SourceRange) Key() SourceRange { return r }

// Key returns the network's prefix.
func (n Network) Key() netip.Prefix { return n.Prefix }

// Key returns the port.
func (h HealthCheck) Key() uint16 { return h.Port }

// Key returns the node's number.
func (n Node) Key() NodeID { return n.ID }

// SelfKey is the key of the one row of its table.
type SelfKey struct{}

// Key returns the one key there is.
func (s Self) Key() SelfKey { return SelfKey{} }

// Key returns the member itself: a member has nothing but its key.
func (m Member) Key() Member { return m }

// Key returns the endpoint's address.
func (e Endpoint) Key() netip.Addr { return e.Addr }

// Key returns the rule set's id.
func (s RuleSet) Key() RuleSetID { return s.ID }

// Key returns the rule's id.
func (r Rule) Key() RuleID { return r.ID }

// Key returns what is asked.
func (v Verdict) Key() VerdictKey { return v.VerdictKey }

// Key returns the range of ports.
func (v PortVerdict) Key() PortKey { return v.PortKey }

// Key returns the peer's address.
func (p Peer) Key() netip.Addr { return p.Addr }

// Key returns the block's prefix.
func (p Block) Key() netip.Prefix { return p.Prefix }

func (f Frontend) appendCanonical(b []byte) []byte {
	b = appendAddr(append(b, 'F'), f.Addr)
	b = binary.BigEndian.AppendUint16(b, f.Port)
	b = append(b, byte(f.Protocol))
	b = binary.BigEndian.AppendUint32(append(b, byte(f.Match)), uint32(f.Set))
	return binary.BigEndian.AppendUint16(append(b, byte(f.Kind)), uint16(f.Flags))
}

func (s BackendSet) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 'S'), uint32(s.ID))
	b = appendString(b, s.Service.Namespace)
	b = appendString(b, s.Service.Name)
	b = binary.BigEndian.AppendUint16(b, s.Service.Port)
	b = append(b, byte(s.Service.Protocol), byte(s.Family), byte(s.Scope), byte(s.Flags))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Place))
	b = binary.BigEndian.AppendUint32(b, uint32(s.Root))
	return binary.BigEndian.AppendUint32(b, s.Affinity)
}

func (r Backend) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 'B'), uint32(r.ID))
	b = binary.BigEndian.AppendUint32(b, uint32(r.Set))
	b = appendAddr(b, r.Addr)
	b = binary.BigEndian.AppendUint16(b, r.Port)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Place))
	b = binary.BigEndian.AppendUint32(append(b, byte(r.State)), uint32(r.Twin))
	if r.Node == 0 && r.Weight == 0 {
		return b // as before outside clients were forwarded
	}
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, uint32(r.Node)), r.Weight)
}

func (m Member) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 'M'), uint32(m.Set))
	return binary.BigEndian.AppendUint32(b, uint32(m.Backend))
}

func (e Endpoint) appendCanonical(b []byte) []byte {
	b = appendString(appendAddr(append(b, 'E'), e.Addr), e.Pod)
	if e.Incarnation == 0 && e.Ingress == 0 && e.Egress == 0 {
		return b // as before there was policy
	}
	b = binary.BigEndian.AppendUint32(b, e.Incarnation)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Ingress))
	return binary.BigEndian.AppendUint64(b, uint64(e.Egress))
}

func (v View) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 'V'), uint32(v.Set))
	b = binary.BigEndian.AppendUint64(append(b, byte(v.Scope)), uint64(v.Place))
	return binary.BigEndian.AppendUint32(b, uint32(v.Target))
}

func (r SourceRange) appendCanonical(b []byte) []byte {
	return appendPrefix(binary.BigEndian.AppendUint32(append(b, 'R'), uint32(r.Set)), r.Prefix)
}

func (n Network) appendCanonical(b []byte) []byte {
	return append(appendPrefix(append(b, 'N'), n.Prefix), byte(n.Kind))
}

func (h HealthCheck) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, 'H'), h.Port)
	return appendString(appendString(b, h.Namespace), h.Name)
}

func (n Node) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 'A'), uint32(n.ID))
	return appendAddr(appendAddr(b, n.V4), n.V6)
}

func (s Self) appendCanonical(b []byte) []byte {
	b = appendString(append(b, 'O'), s.Zone)
	b = append(b, asByte(s.Draining))
	if s.Policed {
		b = append(b, 1) // else as before there was policy
	}
	return b
}

func (s RuleSet) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, 'U'), uint64(s.ID))
	return appendString(append(b, byte(s.Direction)), s.Policies)
}

func (r Rule) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, 'L'), uint64(r.ID))
	b = appendString(appendString(append(b, byte(r.Policy.Kind)), r.Policy.Namespace), r.Policy.Name)
	b = binary.BigEndian.AppendUint16(append(b, byte(r.Direction)), r.Index)
	return append(appendString(b, r.Name), byte(r.Action))
}

func (v Verdict) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, 'D'), uint64(v.RuleSet))
	b = binary.BigEndian.AppendUint32(b, uint32(v.Identity))
	b = binary.BigEndian.AppendUint64(b, uint64(v.Ports))
	return binary.BigEndian.AppendUint64(append(b, byte(v.Action)), uint64(v.Rule))
}

func (v PortVerdict) appendCanonical(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, 'T'), uint64(v.Ports))
	b = binary.BigEndian.AppendUint16(append(b, byte(v.Protocol)), v.Port)
	return binary.BigEndian.AppendUint64(append(b, v.Bits, byte(v.Action)), uint64(v.Rule))
}

func (p Peer) appendCanonical(b []byte) []byte {
	return binary.BigEndian.AppendUint32(appendAddr(append(b, 'P'), p.Addr), uint32(p.Identity))
}

func (p Block) appendCanonical(b []byte) []byte {
	return binary.BigEndian.AppendUint32(appendPrefix(append(b, 'K'), p.Prefix), uint32(p.Identity))
}

func asByte(is bool) byte {
	if is {
		return 1
	}
	return 0
}

// appendPrefix writes the address and the length in bits of its own family, so that 0.0.0.0/0 isn't ::/0.
func appendPrefix(b []byte, p netip.Prefix) []byte {
	return append(appendAddr(b, p.Addr()), byte(p.Bits()), byte(p.Addr().BitLen()))
}

// appendAddr writes an address; none is ::.
func appendAddr(b []byte, addr netip.Addr) []byte {
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	a := addr.As16()
	return append(b, a[:]...)
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}
