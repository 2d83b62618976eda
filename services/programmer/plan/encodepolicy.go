// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
)

// portsBits are the bits of a port's key before the port itself: the table's and the protocol's.
const portsBits = 64 + 16

// What fits the text fields of policy's maps, with the NUL that ends it.
const (
	policiesMax = 255
	policyMax   = 319
	ruleNameMax = 103
)

func (a *arena) hash(id uint64) []byte {
	b := a.take(8)
	binary.NativeEndian.PutUint64(b, id)
	return b
}

func (a *arena) identity(id model.IdentityID, kind model.LayerKind) []byte {
	b := a.take(8)
	binary.NativeEndian.PutUint32(b, uint32(id))
	b[4] = uint8(kind)
	return b
}

func (a *arena) verdictKey(k model.VerdictKey) []byte {
	b := a.take(16)
	binary.NativeEndian.PutUint64(b, uint64(k.RuleSet))
	binary.NativeEndian.PutUint32(b[8:], uint32(k.Identity))
	return b
}

func (a *arena) verdict(v model.Verdict, kind model.LayerKind) []byte {
	b := a.take(24)
	binary.NativeEndian.PutUint64(b, uint64(v.Ports))
	binary.NativeEndian.PutUint64(b[8:], uint64(v.Rule))
	b[16], b[17] = uint8(v.Action), uint8(kind)
	return b
}

func (a *arena) portKey(k model.PortKey) []byte {
	b := a.take(16)
	binary.NativeEndian.PutUint32(b, portsBits+uint32(k.Bits))
	binary.BigEndian.PutUint64(b[4:], uint64(k.Ports))
	b[12] = uint8(k.Protocol)
	binary.BigEndian.PutUint16(b[14:], k.Port)
	return b
}

func (a *arena) portVerdict(v model.PortVerdict, kind model.LayerKind) []byte {
	b := a.take(16)
	binary.NativeEndian.PutUint64(b, uint64(v.Rule))
	b[8], b[9] = uint8(v.Action), uint8(kind)
	return b
}

func (a *arena) ruleSet(s model.RuleSet, kind model.LayerKind) []byte {
	b := a.take(264)
	b[0], b[1] = uint8(s.Direction), uint8(kind)
	copy(b[8:263], s.Policies)
	return b
}

func (a *arena) rule(r model.Rule, kind model.LayerKind) []byte {
	b := a.take(432)
	binary.NativeEndian.PutUint16(b, r.Index)
	b[2], b[3], b[4], b[5] = uint8(r.Policy.Kind), uint8(r.Direction), uint8(r.Action), uint8(kind)
	copy(b[8:327], policyText(r.Policy))
	copy(b[328:431], r.Name)
	return b
}

// policyText is a policy's name without its kind: "namespace/name", or "name" of a ClusterNetworkPolicy.
func policyText(p model.PolicyName) string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

func policyOf(kind model.PolicyKind, text string) model.PolicyName {
	p := model.PolicyName{Kind: kind, Name: text}
	if namespace, name, found := strings.Cut(text, "/"); found {
		p.Namespace, p.Name = namespace, name
	}
	return p
}

// VerdictOf returns what a written verdict is asked by.
func VerdictOf(w maps.Write) model.VerdictKey { return verdicts.readKey(w.Key) }

// JudgesOf returns the rule sets of an endpoint that is written; 0 is none.
func JudgesOf(w maps.Write) [2]model.RuleSetID {
	return [2]model.RuleSetID{
		model.RuleSetID(binary.NativeEndian.Uint64(w.Value)), model.RuleSetID(binary.NativeEndian.Uint64(w.Value[8:])),
	}
}

// IdentityOf returns the identity of a peer or block that is written.
func IdentityOf(w maps.Write) model.IdentityID {
	return model.IdentityID(binary.NativeEndian.Uint32(w.Value))
}

func flag(is bool) uint8 {
	if is {
		return 1
	}
	return 0
}
