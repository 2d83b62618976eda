// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/portrange"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// policy is a policy in force, with its rules' peers as atoms.
type policy struct {
	row             *state.Policy
	subject         *group
	ingress, egress *part // nil if that direction isn't its concern
	atoms           []*atom
	// refused says which limit it exceeds; it closes then.
	refused string
}

// part is what a policy says about one direction.
type part struct {
	policy    *policy
	direction model.Direction
	closed    bool
	rules     []rule
	meaning   [sha256.Size]byte
	// names are ports of the subjects that rules ask for; in order.
	names []portName
}

// rule is a rule with its peers as atoms.
type rule struct {
	model.Rule
	action  state.RuleAction
	anyPeer bool
	peers   []*atom
	anyPort bool
	ports   []state.PortRange // by number
	names   []portName        // of the subject, for ingress
	// named are peers with a port, for egress: each matches that port of each peer alone.
	named []*atom
}

func (p *policy) part(d model.Direction) *part {
	if d == model.Ingress {
		return p.ingress
	}
	return p.egress
}

// adopt brings a policy's atoms into force. Its rules judge nothing yet; see enact.
func (e *Engine) adopt(row *state.Policy) *policy {
	p := &policy{row: row}
	p.refused = e.limits.check(row)
	p.ingress = e.part(p, model.Ingress)
	p.egress = e.part(p, model.Egress)
	return p
}

// abandon takes a policy's atoms out of force.
func (e *Engine) abandon(p *policy) {
	for _, a := range p.atoms {
		e.release(a)
	}
}

// enact makes a policy judge the pods that it selects.
func (e *Engine) enact(p *policy) {
	p.subject = e.group(p.row.Subject)
	p.subject.subjects[p] = true
	e.policies[p.row.PolicyName] = p
	if p.refused != "" {
		e.refused[p] = true
	}
	p.subject.rejudge(e)
}

// repeal ends that.
func (e *Engine) repeal(p *policy) {
	delete(p.subject.subjects, p)
	delete(e.refused, p)
	if e.policies[p.row.PolicyName] == p {
		delete(e.policies, p.row.PolicyName)
	}
	p.subject.rejudge(e)
	e.tidy(p.subject)
}

func (g *group) rejudge(e *Engine) {
	for s := range g.shapes {
		e.rejudge(s)
	}
}

func (e *Engine) part(p *policy, d model.Direction) *part {
	from := p.row.Part(d)
	if !from.Judges {
		return nil
	}
	to := &part{policy: p, direction: d, closed: p.row.Refused != "" || p.refused != ""}
	if to.closed {
		to.meaning = sha256.Sum256([]byte("closed"))
		return to
	}
	to.meaning = meaningOf(from)
	for i := range from.Rules {
		to.rules = append(to.rules, e.rule(p, d, i, &from.Rules[i]))
	}
	for _, r := range to.rules {
		to.names = append(to.names, r.names...)
	}
	slices.SortFunc(to.names, comparePorts)
	to.names = slices.Compact(to.names)
	return to
}

func (e *Engine) rule(p *policy, d model.Direction, index int, from *state.Rule) rule {
	to := rule{
		Rule: model.Rule{
			ID: ruleID(p.row.PolicyName, d, index), Policy: p.row.PolicyName, Direction: d, Index: uint16(index),
			Name: from.Name, Action: model.ActionAllow,
		},
		action: from.Action, anyPeer: from.AnyPeer, anyPort: from.AnyPort,
	}
	if from.Action == state.Deny {
		to.Action = model.ActionDeny
	}
	names := to.split(from.Ports)
	if d == model.Ingress {
		to.names, names = names, nil
	}
	e.peers(&to, from, names)
	for _, list := range [][]*atom{to.peers, to.named} {
		p.atoms = append(p.atoms, list...)
	}
	return to
}

// split takes over the ports by number and returns those by name. A name without a protocol is one of each.
func (r *rule) split(ports []state.PortRange) (names []portName) {
	for _, port := range ports {
		switch {
		case port.Name == "":
			r.ports = append(r.ports, port)
		case port.Protocol == 0:
			for _, protocol := range protocols {
				names = append(names, portName{port.Name, protocol})
			}
		default:
			names = append(names, portName{port.Name, port.Protocol})
		}
	}
	slices.SortFunc(names, comparePorts)
	return slices.Compact(names)
}

// peers makes atoms of a rule's peers; names are ports of them. Blocks and nodes have no named ports, and a rule of
// named ports alone doesn't name its peers otherwise.
func (e *Engine) peers(to *rule, from *state.Rule, names []portName) {
	numbers := to.anyPort || len(to.ports) > 0 || len(to.names) > 0
	pods := []state.PodPeer{{}}
	if !from.AnyPeer {
		pods = nil
	}
	var blocks []state.Block
	for _, peer := range from.Peers {
		switch {
		case peer.Kind == state.PeerPods:
			pods = append(pods, peer.Pods)
			if numbers {
				to.peers = append(to.peers, e.podsAtom(peer.Pods, portName{}))
			}
		case !numbers:
		case peer.Kind == state.PeerNodes:
			to.peers = append(to.peers, e.nodesAtom(peer.Nodes))
		default:
			blocks = append(blocks, peer.Block)
		}
	}
	if len(blocks) > 0 {
		to.peers = append(to.peers, e.blocksAtom(sortBlocks(blocks)))
	}
	for _, name := range names {
		for _, peer := range pods {
			to.named = append(to.named, e.podsAtom(peer, name))
		}
	}
	to.anyPeer = from.AnyPeer && numbers
}

var protocols = []model.Protocol{model.TCP, model.UDP, model.SCTP}

// check returns which limit a policy exceeds; nothing if none.
func (l *Limits) check(p *state.Policy) string {
	blocks := 0
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		combinations, selectors := 0, 0
		for _, r := range p.Part(d).Rules {
			prefixes := 0
			for _, port := range r.Ports {
				prefixes += portrange.Count(port.First, port.Last)
			}
			combinations += max(1, len(r.Peers)) * max(1, prefixes)
			for _, peer := range r.Peers {
				if peer.Kind == state.PeerBlock {
					blocks += 1 + len(peer.Block.Except)
				} else {
					selectors++
				}
			}
		}
		if combinations > l.Combinations {
			return fmt.Sprintf("the pods that it selects pass nothing: its %s rules have %d combinations of peers and prefixes "+
				"of ports, the limit is %d; join rules or ranges, or make it several policies", d, combinations, l.Combinations)
		}
		if selectors > l.Peers {
			return fmt.Sprintf("the pods that it selects pass nothing: its %s rules name %d peers by selector, the limit is %d; "+
				"select by a label that they share, or make it several policies", d, selectors, l.Peers)
		}
	}
	if blocks > l.Blocks {
		return fmt.Sprintf("the pods that it selects pass nothing: it has %d blocks and exceptions of blocks, the limit is %d; "+
			"join prefixes, or make it several policies", blocks, l.Blocks)
	}
	return ""
}
