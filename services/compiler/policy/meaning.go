// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// meaning is bytes that differ wherever what is written differs: each string and list has its length before it.
type meaning []byte

func (m *meaning) text(s string) {
	m.number(len(s))
	*m = append(*m, s...)
}

func (m *meaning) number(n int) { *m = binary.BigEndian.AppendUint32(*m, uint32(n)) }

func (m *meaning) flag(b bool) { m.number(boolean(b)) }

func (m *meaning) policy(p model.PolicyName) {
	m.number(int(p.Kind))
	m.text(p.Namespace)
	m.text(p.Name)
}

func (m *meaning) selector(s state.Selector) {
	terms := s.Terms()
	m.number(len(terms))
	for _, t := range terms {
		m.text(t.Key)
		m.number(int(t.Operator))
		m.number(len(t.Values))
		for _, v := range t.Values {
			m.text(v)
		}
	}
}

func (m *meaning) peer(p *state.Peer) {
	m.number(int(p.Kind))
	m.selector(p.Pods.Namespaces)
	m.selector(p.Pods.Pods)
	m.selector(p.Nodes)
	if p.Kind == state.PeerBlock {
		m.text(packBlocks([]state.Block{p.Block}))
	}
}

func (m *meaning) rule(r *state.Rule) {
	m.text(r.Name)
	m.number(int(r.Action))
	m.flag(r.AnyPeer)
	m.number(len(r.Peers))
	for i := range r.Peers {
		m.peer(&r.Peers[i])
	}
	m.flag(r.AnyPort)
	m.number(len(r.Ports))
	for _, p := range r.Ports {
		m.number(int(p.Protocol))
		m.number(int(p.First))
		m.number(int(p.Last))
		m.text(p.Name)
	}
}

// meaningOf returns a hash of a part's rules.
func meaningOf(p *state.Part) [sha256.Size]byte {
	var m meaning
	m.number(len(p.Rules))
	for i := range p.Rules {
		m.rule(&p.Rules[i])
	}
	return sha256.Sum256(m)
}

// id returns the first 8 bytes of the hash, never 0.
func (m meaning) id() uint64 {
	hash := sha256.Sum256(m)
	return max(1, binary.BigEndian.Uint64(hash[:]))
}

// name returns what an atom means; of a named port, with one number of it.
func (k *atomKey) name(number uint16) uint64 {
	var m meaning
	m.number(int(k.kind))
	m.selector(k.pods.Namespaces)
	m.selector(k.pods.Pods)
	m.selector(k.nodes)
	m.text(k.block)
	m.text(k.port.name)
	m.number(int(k.port.protocol))
	m.number(int(number))
	return m.id()
}

func ruleID(p model.PolicyName, d model.Direction, index int) model.RuleID {
	var m meaning
	m.policy(p)
	m.number(int(d))
	m.number(index)
	return model.RuleID(m.id())
}

func comparePorts(a, b portName) int {
	return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol))
}
