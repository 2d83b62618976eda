// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// A key in a Tree is the letter of its table, as in the canonical bytes of rows, then the key's fields in order, fixed
// width, big endian; an address is 16 bytes, a prefix that, its length, and that of its family's addresses, in bits.
const (
	keyAddr   = 16
	keyPrefix = 18
)

// keySizes is how long the keys of each table are, without the letter.
var keySizes = [256]int{
	'F': keyAddr + 4, 'S': 4, 'B': 4, 'M': 8, 'E': keyAddr, 'V': 13, 'R': 4 + keyPrefix, 'N': keyPrefix, 'H': 2, 'A': 4, 'O': 0,
	'U': 8, 'L': 8, 'T': 12, 'D': 12, 'K': keyPrefix, 'P': keyAddr,
}

var big = binary.BigEndian

// rowBytes are the key and the canonical bytes of one row.
type rowBytes struct{ key, row []byte }

// each visits rows of all tables.
func (b *rowBytes) each(r *Rows, visit func()) {
	eachRow(b, visit, r.Frontends, func(b []byte, r Frontend) []byte { return appendFrontendKey(b, r.FrontendKey) })
	eachRow(b, visit, r.Sets, func(b []byte, r BackendSet) []byte { return appendSetID(b, r.ID) })
	eachRow(b, visit, r.Backends, func(b []byte, r Backend) []byte { return appendBackendID(b, r.ID) })
	eachRow(b, visit, r.Members, appendMember)
	eachRow(b, visit, r.Endpoints, func(b []byte, r Endpoint) []byte { return appendEndpoint(b, r.Addr) })
	eachRow(b, visit, r.Views, func(b []byte, r View) []byte { return appendViewKey(b, r.ViewKey) })
	eachRow(b, visit, r.SourceRanges, appendSourceRange)
	eachRow(b, visit, r.Networks, func(b []byte, r Network) []byte { return appendNetwork(b, r.Prefix) })
	eachRow(b, visit, r.HealthChecks, func(b []byte, r HealthCheck) []byte { return appendHealthCheck(b, r.Port) })
	eachRow(b, visit, r.Nodes, func(b []byte, r Node) []byte { return appendNodeID(b, r.ID) })
	eachRow(b, visit, r.Selves, func(b []byte, _ Self) []byte { return append(b, 'O') })
	eachRow(b, visit, r.RuleSets, func(b []byte, r RuleSet) []byte { return appendRuleSetID(b, r.ID) })
	eachRow(b, visit, r.Rules, func(b []byte, r Rule) []byte { return appendRuleID(b, r.ID) })
	eachRow(b, visit, r.PortVerdicts, func(b []byte, r PortVerdict) []byte { return appendPortKey(b, r.PortKey) })
	eachRow(b, visit, r.Verdicts, func(b []byte, r Verdict) []byte { return appendVerdictKey(b, r.VerdictKey) })
	eachRow(b, visit, r.Blocks, func(b []byte, r Block) []byte { return appendBlock(b, r.Prefix) })
	eachRow(b, visit, r.Peers, func(b []byte, r Peer) []byte { return appendPeer(b, r.Addr) })
}

// remove takes rows of all tables out of t.
func (t *Tree) remove(k *Keys) {
	removeKeys(t, k.Frontends, appendFrontendKey)
	removeKeys(t, k.Sets, appendSetID)
	removeKeys(t, k.Backends, appendBackendID)
	removeKeys(t, k.Members, appendMember)
	removeKeys(t, k.Endpoints, appendEndpoint)
	removeKeys(t, k.Views, appendViewKey)
	removeKeys(t, k.SourceRanges, appendSourceRange)
	removeKeys(t, k.Networks, appendNetwork)
	removeKeys(t, k.HealthChecks, appendHealthCheck)
	removeKeys(t, k.Nodes, appendNodeID)
	removeKeys(t, k.Selves, func(b []byte, _ SelfKey) []byte { return append(b, 'O') })
	removeKeys(t, k.RuleSets, appendRuleSetID)
	removeKeys(t, k.Rules, appendRuleID)
	removeKeys(t, k.PortVerdicts, appendPortKey)
	removeKeys(t, k.Verdicts, appendVerdictKey)
	removeKeys(t, k.Blocks, appendBlock)
	removeKeys(t, k.Peers, appendPeer)
}

func appendFrontendKey(b []byte, k FrontendKey) []byte {
	b = big.AppendUint16(appendAddr(append(b, 'F'), k.Addr), k.Port)
	return append(b, byte(k.Protocol), byte(k.Match))
}

func appendSetID(b []byte, id SetID) []byte { return big.AppendUint32(append(b, 'S'), uint32(id)) }

func appendBackendID(b []byte, id BackendID) []byte {
	return big.AppendUint32(append(b, 'B'), uint32(id))
}

func appendMember(b []byte, m Member) []byte { return m.appendCanonical(b) }

func appendEndpoint(b []byte, addr netip.Addr) []byte { return appendAddr(append(b, 'E'), addr) }

func appendViewKey(b []byte, k ViewKey) []byte {
	b = append(big.AppendUint32(append(b, 'V'), uint32(k.Set)), byte(k.Scope))
	return big.AppendUint64(b, uint64(k.Place))
}

func appendSourceRange(b []byte, r SourceRange) []byte { return r.appendCanonical(b) }

func appendNetwork(b []byte, p netip.Prefix) []byte { return appendPrefix(append(b, 'N'), p) }

func appendHealthCheck(b []byte, port uint16) []byte { return big.AppendUint16(append(b, 'H'), port) }

func appendNodeID(b []byte, id NodeID) []byte { return big.AppendUint32(append(b, 'A'), uint32(id)) }

func appendRuleSetID(b []byte, id RuleSetID) []byte {
	return big.AppendUint64(append(b, 'U'), uint64(id))
}

func appendRuleID(b []byte, id RuleID) []byte { return big.AppendUint64(append(b, 'L'), uint64(id)) }

func appendPortKey(b []byte, k PortKey) []byte {
	b = append(big.AppendUint64(append(b, 'T'), uint64(k.Ports)), byte(k.Protocol))
	return append(big.AppendUint16(b, k.Port), k.Bits)
}

func appendVerdictKey(b []byte, k VerdictKey) []byte {
	return big.AppendUint32(big.AppendUint64(append(b, 'D'), uint64(k.RuleSet)), uint32(k.Identity))
}

func appendBlock(b []byte, p netip.Prefix) []byte { return appendPrefix(append(b, 'K'), p) }

func appendPeer(b []byte, addr netip.Addr) []byte { return appendAddr(append(b, 'P'), addr) }

// add reads one key that the functions above wrote.
func (k *Keys) add(key []byte) {
	b := key[1:]
	switch key[0] {
	case 'F':
		k.Frontends = append(k.Frontends, FrontendKey{
			Addr: readAddr(b), Port: big.Uint16(b[keyAddr:]), Protocol: Protocol(b[keyAddr+2]), Match: Match(b[keyAddr+3]),
		})
	case 'S':
		k.Sets = append(k.Sets, SetID(big.Uint32(b)))
	case 'B':
		k.Backends = append(k.Backends, BackendID(big.Uint32(b)))
	case 'M':
		k.Members = append(k.Members, Member{Set: SetID(big.Uint32(b)), Backend: BackendID(big.Uint32(b[4:]))})
	case 'E':
		k.Endpoints = append(k.Endpoints, readAddr(b))
	case 'V':
		k.Views = append(k.Views, ViewKey{Set: SetID(big.Uint32(b)), Scope: Scope(b[4]), Place: Place(big.Uint64(b[5:]))})
	case 'R':
		k.SourceRanges = append(k.SourceRanges, SourceRange{Set: SetID(big.Uint32(b)), Prefix: readPrefix(b[4:])})
	case 'N':
		k.Networks = append(k.Networks, readPrefix(b))
	case 'H':
		k.HealthChecks = append(k.HealthChecks, big.Uint16(b))
	case 'A':
		k.Nodes = append(k.Nodes, NodeID(big.Uint32(b)))
	case 'O':
		k.Selves = append(k.Selves, SelfKey{})
	case 'U':
		k.RuleSets = append(k.RuleSets, RuleSetID(big.Uint64(b)))
	case 'L':
		k.Rules = append(k.Rules, RuleID(big.Uint64(b)))
	case 'T':
		k.PortVerdicts = append(k.PortVerdicts, PortKey{
			Ports: PortsID(big.Uint64(b)), Protocol: Protocol(b[8]), Port: big.Uint16(b[9:]), Bits: b[11],
		})
	case 'D':
		k.Verdicts = append(k.Verdicts, VerdictKey{RuleSet: RuleSetID(big.Uint64(b)), Identity: IdentityID(big.Uint32(b[8:]))})
	case 'K':
		k.Blocks = append(k.Blocks, readPrefix(b))
	case 'P':
		k.Peers = append(k.Peers, readAddr(b))
	default:
		panic(fmt.Sprintf("model: a key of table %q in a tree", key[0]))
	}
}

func readAddr(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b[:keyAddr])).Unmap() }

func readPrefix(b []byte) netip.Prefix {
	addr := netip.AddrFrom16([16]byte(b[:keyAddr]))
	if b[keyAddr+1] == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, int(b[keyAddr]))
}
