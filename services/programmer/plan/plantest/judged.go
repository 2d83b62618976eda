// SPDX-License-Identifier: Apache-2.0

package plantest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	programmer "github.com/deltaplane/deltaplane/services/programmer/maps"
)

// Asked is a connection that is about to begin at a pod: what a program asks policy about.
type Asked struct {
	Pod, Peer netip.Addr
	Direction model.Direction
	Protocol  model.Protocol
	Port      uint16
}

// String returns it in words.
func (a Asked) String() string {
	return fmt.Sprintf("%s of pod %s with %s, %s port %d", a.Direction, a.Pod, a.Peer, a.Protocol, a.Port)
}

// The verdicts that are no action.
const (
	unjudged = "allow"
	unknown  = "unknown pod"
)

// judge is a program between two lookups: the steps of bpf/include/judge.h and verdict.h.
type judge struct {
	Asked
	at       judgeStep
	ruleSet  uint64
	identity uint32
	ports    uint64
	action   uint8
}

type judgeStep int

const (
	readEndpoint judgeStep = iota
	readPeer
	readBlock
	readVerdict
	readDefault
	readPorts
)

// Verdict returns what rows say about a connection, slowly and obviously.
func Verdict(rows *model.Tables, a Asked) string {
	if !rows.Selves[model.SelfKey{}].Policed {
		return unjudged
	}
	e, known := rows.Endpoints[a.Pod]
	if !known {
		return unknown
	}
	id := e.Ingress
	if a.Direction == model.Egress {
		id = e.Egress
	}
	if id == 0 {
		return unjudged
	}
	v, named := rows.Verdicts[model.VerdictKey{RuleSet: id, Identity: identity(rows, a.Peer)}]
	if !named {
		v, named = rows.Verdicts[model.VerdictKey{RuleSet: id}]
	}
	if !named {
		return model.ActionClosed.String()
	}
	action, most := v.Action, -1
	for key, p := range rows.PortVerdicts {
		if v.Ports != 0 && key.Ports == v.Ports && key.Protocol == a.Protocol && (a.Port^key.Port)>>(16-key.Bits) == 0 && int(key.Bits) > most {
			action, most = p.Action, int(key.Bits)
		}
	}
	return action.String()
}

func identity(rows *model.Tables, addr netip.Addr) (id model.IdentityID) {
	if p, named := rows.Peers.Get(addr); named {
		return p.Identity
	}
	most := -1
	for prefix, b := range rows.Blocks {
		if prefix.Contains(addr) && prefix.Bits() > most {
			id, most = b.Identity, prefix.Bits()
		}
	}
	return id
}

// asks are the connections worth asking about: of every pod with every peer, and with an address in every block.
func asks(rows *model.Tables) (all []Asked) {
	others := map[netip.Addr]bool{}
	for addr := range rows.Peers.All() {
		others[addr] = true
	}
	for p := range rows.Blocks {
		others[p.Addr()] = true
		others[p.Addr().Next().Next().Next()] = true
	}
	for pod := range rows.Endpoints {
		for peer := range others {
			if peer == pod || peer.Is4() != pod.Is4() {
				continue
			}
			for _, direction := range []model.Direction{model.Ingress, model.Egress} {
				all = append(all, Asked{pod, peer, direction, model.TCP, 80}, Asked{pod, peer, direction, model.TCP, 8081})
			}
		}
	}
	return all
}

// Judge implements Maps: programs run before and after.
func (w *Witness) Judge(policed bool) error {
	if err := w.Memory.Judge(policed); err != nil {
		return err
	}
	w.time++
	w.step()
	return nil
}

// allowVerdicts allows what any of the rows says that programs may be reading.
func (w *Witness) allowVerdicts() {
	w.verdicts = map[Asked]map[string]bool{}
	all := make([]*model.Tables, 0, len(w.earlier)+1)
	for _, rows := range append(slices.Concat(w.earlier, w.cut), w.rows) {
		all = append(all, merged(rows))
	}
	for _, rows := range all {
		for _, a := range asks(rows) {
			if w.verdicts[a] != nil {
				continue
			}
			w.verdicts[a] = map[string]bool{}
			for _, rows := range all {
				w.verdicts[a][Verdict(rows, a)] = true
			}
			if w.Closes {
				w.verdicts[a][model.ActionClosed.String()] = true
			}
			if w.verdicts[a][unknown] { // what a pod that goes, or is yet to come, is told that drops
				for _, drops := range []model.Action{model.ActionDeny, model.ActionIsolate, model.ActionClosed} {
					w.verdicts[a][drops.String()] = true
				}
			}
		}
	}
}

// judges starts a program for each connection and lets all that run go on as far as they like.
func (w *Witness) judges() {
	epoch, _ := w.Epoch()
	for a := range w.verdicts {
		if epoch == 0 {
			w.judged(a, unjudged)
		} else {
			w.judging[judge{Asked: a}] = true
		}
	}
	todo := w.judging
	for len(todo) > 0 {
		next := map[judge]bool{}
		for j := range todo {
			if n, goesOn := w.judge(j); goesOn && !w.judging[n] {
				w.judging[n], next[n] = true, true
			}
		}
		todo = next
	}
}

// judge makes a program's next lookup.
func (w *Witness) judge(j judge) (judge, bool) {
	switch j.at {
	case readEndpoint:
		return w.endpoint(j)
	case readPeer:
		value, found := w.Lookup(abi.Peers, abi.Encode(j.Peer.As16()))
		if j.at = readBlock; found {
			j.at, j.identity = readVerdict, identityOf(value)
		}
		return j, true
	case readBlock:
		j.at, j.identity = readVerdict, w.block(j.Peer)
		return j, true
	case readVerdict, readDefault:
		return w.verdict(j)
	}
	w.judged(j.Asked, w.port(j).String())
	return j, false
}

func (w *Witness) endpoint(j judge) (judge, bool) {
	value, found := w.Lookup(abi.Endpoints, abi.Encode(j.Pod.As16()))
	if !found {
		w.judged(j.Asked, unknown)
		return j, false
	}
	e, known := w.endpoints[string(value)] // asked after each write: decoding it each time was most of what a test did
	if !known {
		must(abi.Decode(value, &e))
		w.endpoints[string(value)] = e
	}
	if j.ruleSet = e.Ingress; j.Direction == model.Egress {
		j.ruleSet = e.Egress
	}
	if j.ruleSet == 0 {
		w.judged(j.Asked, unjudged)
		return j, false
	}
	j.at = readPeer
	return j, true
}

func (w *Witness) verdict(j judge) (judge, bool) {
	key := abi.VerdictKey{RuleSet: j.ruleSet, Identity: j.identity}
	if j.at == readDefault {
		key.Identity = 0
	}
	value, found := w.Lookup(abi.Verdicts, abi.Encode(key))
	if !found && j.at == readVerdict {
		j.at = readDefault
		return j, true
	}
	if !found {
		w.judged(j.Asked, model.ActionClosed.String())
		return j, false
	}
	var v abi.Verdict
	must(abi.Decode(value, &v))
	if v.Ports == 0 {
		w.judged(j.Asked, model.Action(v.Action).String())
		return j, false
	}
	return judge{Asked: j.Asked, at: readPorts, ports: v.Ports, action: v.Action}, true
}

// block looks for the longest block of an address.
func (w *Witness) block(addr netip.Addr) (id uint32) {
	most := -1
	w.dump(abi.Blocks, func(key, value []byte) {
		var k abi.NetworkKey
		must(abi.Decode(key, &k))
		bits := int(k.Bits)
		if prefix := netip.PrefixFrom(netip.AddrFrom16(k.Addr), bits); bits > most && contains(prefix, addr) {
			id, most = identityOf(value), bits
		}
	})
	return id
}

// contains is a trie's: an IPv4 address is in it as a mapped one, but what the compiler makes of blocks keeps families
// apart.
func contains(p netip.Prefix, addr netip.Addr) bool {
	a, b := p.Addr().As16(), addr.As16()
	for i := range p.Bits() {
		if (a[i/8]^b[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

func (w *Witness) port(j judge) model.Action {
	action, most := j.action, -1
	w.dump(abi.PortVerdicts, func(key, value []byte) {
		var k abi.PortVerdictKey
		var v abi.PortVerdict
		must(abi.Decode(key, &k))
		must(abi.Decode(value, &v))
		bits := int(k.Bits) - 80
		if binary.BigEndian.Uint64(k.Ports[:]) == j.ports && k.Protocol == uint8(j.Protocol) &&
			(j.Port^abi.HostPort(k.Port))>>(16-bits) == 0 && bits > most {
			action, most = v.Action, bits
		}
	})
	return model.Action(action)
}

func (w *Witness) dump(m abi.Map, each func(key, value []byte)) {
	must(programmer.Dump(w.Memory, m, func(key, value []byte) error {
		each(key, value)
		return nil
	}))
}

func identityOf(value []byte) uint32 {
	var id abi.Identity
	must(abi.Decode(value, &id))
	return id.ID
}

func (w *Witness) judged(a Asked, verdict string) {
	if !w.verdicts[a][verdict] {
		w.Problems[fmt.Sprintf("write %d: %s: judged %q, which neither the rows before nor those after say", w.time, a, verdict)] = true
	}
}
