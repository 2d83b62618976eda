// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// oracle judges slowly and obviously: it reads policies rule by rule, for one connection, and numbers nothing. Subjects
// are pods as one snapshot has them, peers as another, so that it can say what is between two states.
type oracle struct {
	subjects, peers *state.Snapshot
	policies        []*state.Policy
}

func oracleOf(subjects, policies, peers *state.Snapshot) oracle {
	list := slices.SortedFunc(policies.Policies(), (*state.Policy).Compare)
	return oracle{subjects, peers, list}
}

// judge says what policies say about a pod's connection with an address, to a port.
func (o oracle) judge(pod *state.Pod, d model.Direction, addr netip.Addr, protocol model.Protocol, port uint16) model.Action {
	var selecting []*state.Policy
	for _, p := range o.policies {
		if p.Part(d).Judges && p.Selects(o.subjects, pod) {
			selecting = append(selecting, p)
		}
	}
	for _, p := range selecting {
		if p.Refused != "" {
			return model.ActionClosed
		}
	}
	isolated, passed := false, false
	for _, p := range selecting {
		tier := p.PolicyName.Kind
		isolated = isolated || tier == model.NetworkPolicy
		if tier == model.AdminPolicy && passed || tier == model.BaselinePolicy && isolated {
			continue
		}
		for _, r := range p.Part(d).Rules {
			if !o.matches(pod, d, &r, addr, protocol, port) {
				continue
			}
			switch r.Action {
			case state.Accept:
				return model.ActionAllow
			case state.Deny:
				return model.ActionDeny
			}
			if tier == model.BaselinePolicy {
				return model.ActionAllow
			}
			passed = true
			break
		}
	}
	if isolated {
		return model.ActionIsolate
	}
	return model.ActionAllow
}

func (o oracle) matches(
	pod *state.Pod, d model.Direction, r *state.Rule, addr netip.Addr, protocol model.Protocol, port uint16,
) bool {
	peer := owner(o.peers, addr)
	if !r.AnyPeer && !slices.ContainsFunc(r.Peers, func(p state.Peer) bool { return o.isPeer(&p, peer, addr) }) {
		return false
	}
	if r.AnyPort {
		return true
	}
	to := pod
	if d == model.Egress {
		to = peer
		// Names count only for peers that are named as pods.
		if !r.AnyPeer && !slices.ContainsFunc(r.Peers, func(p state.Peer) bool {
			return p.Kind == state.PeerPods && o.isPeer(&p, peer, addr)
		}) {
			to = nil
		}
	}
	return slices.ContainsFunc(r.Ports, func(p state.PortRange) bool {
		if p.Name == "" {
			return p.Protocol == protocol && p.First <= port && port <= p.Last
		}
		return to != nil && slices.ContainsFunc(to.Ports, func(named state.Port) bool {
			return named.Name == p.Name && named.Protocol == protocol && named.Number == port &&
				(p.Protocol == 0 || p.Protocol == protocol)
		})
	})
}

func (o oracle) isPeer(p *state.Peer, peer *state.Pod, addr netip.Addr) bool {
	switch p.Kind {
	case state.PeerPods:
		return peer != nil && p.Pods.Matches(o.peers, peer)
	case state.PeerNodes:
		for n := range o.peers.Nodes() {
			if slices.Contains(n.Addresses, addr) {
				return peer == nil && p.Nodes.Matches(n.Labels) // the first by name has it
			}
		}
		return false
	}
	return p.Block.Prefix.Contains(addr) &&
		!slices.ContainsFunc(p.Block.Except, func(e netip.Prefix) bool { return e.Contains(addr) })
}

// owner returns the pod that has an address: the first by name.
func owner(s *state.Snapshot, addr netip.Addr) *state.Pod {
	for p := range s.Pods() {
		if slices.Contains(p.Attached(), addr) {
			return p
		}
	}
	return nil
}

// read judges as a node does: from rows alone.
func read(t *model.Tables, set model.RuleSetID, addr netip.Addr, protocol model.Protocol, port uint16) model.Action {
	if set == 0 {
		return model.ActionAllow
	}
	if _, found := t.RuleSets[set]; !found {
		return 0
	}
	var id model.IdentityID
	if peer, found := t.Peers.Get(addr); found {
		id = peer.Identity
	} else {
		id = blockOf(t, addr)
	}
	verdict, found := t.Verdicts[model.VerdictKey{RuleSet: set, Identity: id}]
	if !found {
		if verdict, found = t.Verdicts[model.VerdictKey{RuleSet: set}]; !found {
			return model.ActionClosed
		}
	}
	for bits := 16; bits >= 0 && verdict.Ports != 0; bits-- {
		key := model.PortKey{Ports: verdict.Ports, Protocol: protocol, Port: port &^ (1<<(16-bits) - 1), Bits: uint8(bits)}
		if exception, found := t.PortVerdicts[key]; found {
			return exception.Action
		}
	}
	return verdict.Action
}

// blockOf finds the longest prefix as the kernel does, which has IPv4 addresses among the IPv6 ones.
func blockOf(t *model.Tables, addr netip.Addr) model.IdentityID {
	for ; ; addr = netip.AddrFrom16(addr.As16()) {
		for bits := addr.BitLen(); bits >= 0; bits-- {
			prefix := netip.PrefixFrom(addr, bits).Masked()
			if block, found := t.Blocks[prefix]; found {
				return block.Identity
			}
		}
		if addr.Is6() {
			return 0
		}
	}
}
