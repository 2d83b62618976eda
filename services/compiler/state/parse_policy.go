// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Bounds of what one policy may have. What exceeds them is refused as what can't be understood: it closes.
const (
	// MaxRules bounds the rules of one direction.
	MaxRules = 1024
	// MaxPeers bounds the peers of one rule.
	MaxPeers = 4096
	// MaxRanges bounds the ports of one rule.
	MaxRanges = 1024
	// MaxExcepts bounds the prefixes that one block excepts.
	MaxExcepts = 4096
	// MaxPriority is the highest of a ClusterNetworkPolicy.
	MaxPriority = 1000
	// maxRuleName and maxPortName are Kubernetes' bounds, maxReason ours.
	maxRuleName, maxPortName, maxReason = 100, 63, 512
)

// parseNetworkPolicy never returns nil: what can't be read closes what it selects, or its whole namespace.
func parseNetworkPolicy(n Name, m *schemas.NetworkPolicy) (*Policy, error) {
	p := &Policy{
		PolicyName: model.PolicyName{Kind: model.NetworkPolicy, Namespace: n.Namespace, Name: n.Name},
		Subject:    PodPeer{Namespaces: InNamespace(n.Namespace)},
		Ingress:    Part{Judges: m.GetIsolatesIngress()}, Egress: Part{Judges: m.GetIsolatesEgress()},
	}
	if m.GetPods() == nil {
		return p.refuse(cmp.Or(reason(m.GetRefused()), errors.New("its fact doesn't say which pods it selects: is the watcher older?")))
	}
	var err error
	if p.Subject.Pods, err = parseSelector(m.GetPods()); err != nil {
		return p.refuse(err)
	}
	return p.rules(m.GetIngress(), m.GetEgress(), reason(m.GetRefused()))
}

// parseClusterNetworkPolicy never returns nil: what can't be read closes what it selects, or everything.
func parseClusterNetworkPolicy(n Name, m *schemas.ClusterNetworkPolicy) (*Policy, error) {
	p := &Policy{
		PolicyName: model.PolicyName{Kind: model.AdminPolicy, Name: n.Name}, Priority: uint16(min(m.GetPriority(), MaxPriority)),
		Ingress: Part{Judges: len(m.GetIngress()) > 0}, Egress: Part{Judges: len(m.GetEgress()) > 0},
	}
	refused := reason(m.GetRefused())
	switch m.GetTier() {
	case schemas.PolicyTier_POLICY_TIER_ADMIN:
	case schemas.PolicyTier_POLICY_TIER_BASELINE:
		p.PolicyName.Kind = model.BaselinePolicy
	default:
		refused = cmp.Or(refused, fmt.Errorf("tier %d: want Admin or Baseline", m.GetTier()))
	}
	if m.GetPriority() > MaxPriority {
		refused = cmp.Or(refused, fmt.Errorf("priority %d: want 0 to %d", m.GetPriority(), MaxPriority))
	}
	if m.GetSubject() == nil {
		return p.refuse(cmp.Or(refused, errors.New("it doesn't say which pods it selects")))
	}
	var err error
	if p.Subject, err = p.podPeer(m.GetSubject()); err != nil {
		return p.refuse(cmp.Or(refused, err))
	}
	if refused == nil && !p.Ingress.Judges && !p.Egress.Judges {
		return p, nil
	}
	return p.rules(m.GetIngress(), m.GetEgress(), refused)
}

// reason is why the watcher refuses a policy; nil if it doesn't.
func reason(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(strings.ToValidUTF8(text[:min(len(text), maxReason)], ""))
}

// refuse makes the policy close what it selects in the directions that it judges; if it names none, in both.
func (p *Policy) refuse(why error) (*Policy, error) {
	p.Refused = strings.ReplaceAll(why.Error(), "\n", "; ")
	p.Ingress.Rules, p.Egress.Rules = nil, nil
	if !p.Ingress.Judges && !p.Egress.Judges {
		p.Ingress.Judges, p.Egress.Judges = true, true
	}
	return p, fmt.Errorf("the pods that it selects pass nothing: %s", p.Refused)
}

// rules reads the rules of both directions. What is only partly understood is named, and used.
func (p *Policy) rules(ingress, egress []*schemas.PolicyRule, refused error) (*Policy, error) {
	if refused != nil {
		return p.refuse(refused)
	}
	var partly []error
	for _, part := range []struct {
		direction model.Direction
		rules     []*schemas.PolicyRule
	}{{model.Ingress, ingress}, {model.Egress, egress}} {
		into := p.Part(part.direction)
		if len(part.rules) > MaxRules {
			return p.refuse(fmt.Errorf("%s has %d rules: the bound is %d", part.direction, len(part.rules), MaxRules))
		}
		for i, m := range part.rules {
			rule, unknown, err := p.rule(m)
			if err != nil {
				return p.refuse(fmt.Errorf("%s[%d]: %w", part.direction, i, err))
			}
			if unknown != nil {
				partly = append(partly, fmt.Errorf("%s[%d]: %w", part.direction, i, unknown))
			}
			into.Rules = append(into.Rules, rule)
		}
		if !into.Judges {
			into.Rules = nil
		}
	}
	return p, together(partly...)
}

func (p *Policy) rule(m *schemas.PolicyRule) (r Rule, unknown, err error) {
	r = Rule{Name: m.GetName(), Action: RuleAction(m.GetAction()), AnyPeer: m.GetAnyPeer(), AnyPort: m.GetAnyPort()}
	switch {
	case m.GetAction() < schemas.RuleAction_RULE_ACTION_ACCEPT || m.GetAction() > schemas.RuleAction_RULE_ACTION_PASS,
		p.PolicyName.Kind == model.NetworkPolicy && r.Action != Accept:
		return r, nil, fmt.Errorf("action %d is none that it can have", m.GetAction())
	case len(r.Name) > maxRuleName || !utf8.ValidString(r.Name) || strings.ContainsFunc(r.Name, unprintable):
		return r, nil, fmt.Errorf("%.64q is no rule's name", r.Name)
	case len(m.GetPeers()) > MaxPeers || len(m.GetPorts()) > MaxRanges:
		return r, nil, fmt.Errorf("it has %d peers and %d ports: the bounds are %d and %d",
			len(m.GetPeers()), len(m.GetPorts()), MaxPeers, MaxRanges)
	case r.AnyPeer && len(m.GetPeers()) > 0, r.AnyPort == (len(m.GetPorts()) > 0):
		return r, nil, errors.New("want peers or everyone, and ports or all ports")
	}
	for i, m := range m.GetPeers() {
		if m.GetUnknown() != "" {
			unknown = together(unknown, fmt.Errorf("peers[%d] is %.64q, which this version doesn't know", i, m.GetUnknown()))
			continue
		}
		peer, err := p.peer(m)
		if err != nil {
			return r, nil, fmt.Errorf("peers[%d]: %w", i, err)
		}
		r.Peers = append(r.Peers, peer)
	}
	for i, port := range m.GetPorts() {
		ports, err := p.portRange(port)
		if err != nil {
			return r, nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		r.Ports = append(r.Ports, ports)
	}
	if unknown != nil {
		unknown = r.closeUnknown(unknown)
	}
	return r, unknown, nil
}

// closeUnknown makes of a rule with peers that this version doesn't know what network-policy-api asks for (v0.2.0,
// ClusterNetworkPolicyEgressPeer, "fail closed"): one that accepts matches nothing by them, any other denies all.
func (r *Rule) closeUnknown(unknown error) error {
	if r.Action == Accept {
		return fmt.Errorf("%w: the rule accepts nothing by it", unknown)
	}
	*r = Rule{Name: r.Name, Action: Deny, AnyPeer: true, AnyPort: true}
	return fmt.Errorf("%w: the rule denies everything", unknown)
}

func (p *Policy) peer(m *schemas.PolicyPeer) (peer Peer, err error) {
	switch {
	case m.GetPods() != nil:
		peer.Kind = PeerPods
		peer.Pods, err = p.podPeer(m.GetPods())
	case m.GetBlock() != nil:
		peer.Kind = PeerBlock
		peer.Block, err = parseBlock(m.GetBlock())
	case m.GetNodes() != nil && p.PolicyName.Kind != model.NetworkPolicy:
		peer.Kind = PeerNodes
		peer.Nodes, err = parseSelector(m.GetNodes())
	default:
		err = errors.New("it names no one")
	}
	return peer, err
}

// podPeer reads a selection of pods. Without namespaces a NetworkPolicy means its own, a ClusterNetworkPolicy all.
func (p *Policy) podPeer(m *schemas.PodPeer) (peer PodPeer, err error) {
	if m.GetNamespaces() == nil && p.Namespace != "" {
		peer.Namespaces = InNamespace(p.Namespace)
	}
	if m.GetNamespaces() != nil {
		if peer.Namespaces, err = parseSelector(m.GetNamespaces()); err != nil {
			return peer, fmt.Errorf("namespaces: %w", err)
		}
	}
	if peer.Pods, err = parseSelector(m.GetPods()); err != nil {
		return peer, fmt.Errorf("pods: %w", err)
	}
	return peer, nil
}

// parseBlock leaves out excepted prefixes that are outside of the block's: they except nothing.
func parseBlock(m *schemas.BlockPeer) (b Block, err error) {
	if len(m.GetExcept()) > MaxExcepts {
		return b, fmt.Errorf("it excepts %d prefixes: the bound is %d", len(m.GetExcept()), MaxExcepts)
	}
	list, err := prefixes("cidr", []string{m.GetCidr()})
	if err != nil {
		return b, err
	}
	b.Prefix = list[0]
	if b.Except, err = prefixes("except", m.GetExcept()); err != nil {
		return b, err
	}
	b.Except = slices.DeleteFunc(b.Except, func(e netip.Prefix) bool { return !e.Overlaps(b.Prefix) })
	return b, nil
}

func (p *Policy) portRange(m *schemas.PolicyPort) (PortRange, error) {
	r := PortRange{Protocol: model.Protocol(m.GetProtocol()), Name: m.GetName()}
	switch {
	case r.Protocol == 0 && r.Name != "" && p.PolicyName.Kind != model.NetworkPolicy:
	case schemas.Protocol(r.Protocol) == m.GetProtocol() && (r.Protocol == model.TCP || r.Protocol == model.UDP || r.Protocol == model.SCTP):
	default:
		return r, fmt.Errorf("protocol %d: want TCP (6), UDP (17) or SCTP (132)", m.GetProtocol())
	}
	first, last := m.GetPort(), m.GetEndPort()
	switch {
	case r.Name != "" && (first != 0 || last != 0):
		return r, errors.New("it has a name and a number")
	case r.Name != "":
		if len(r.Name) > maxPortName || strings.ContainsFunc(r.Name, unprintable) || !utf8.ValidString(r.Name) {
			return r, fmt.Errorf("%.64q is no port's name", r.Name)
		}
		return r, nil
	case first == 0 && last == 0:
		r.Last = 65535
		return r, nil
	case last == 0:
		last = first
	}
	if first == 0 || first > last || last > 65535 {
		return r, fmt.Errorf("ports %d to %d: want 1 to 65535, the first at most the last", first, last)
	}
	r.First, r.Last = uint16(first), uint16(last)
	return r, nil
}

// samePolicy says whether two policies mean the same, and are written in the same order.
func samePolicy(a, b *Policy) bool {
	return a.PolicyName == b.PolicyName && a.Priority == b.Priority && a.Subject == b.Subject && a.Refused == b.Refused &&
		samePart(&a.Ingress, &b.Ingress) && samePart(&a.Egress, &b.Egress)
}

func samePart(a, b *Part) bool {
	return a.Judges == b.Judges && slices.EqualFunc(a.Rules, b.Rules, sameRule)
}

func sameRule(a, b Rule) bool {
	return a.Name == b.Name && a.Action == b.Action && a.AnyPeer == b.AnyPeer && a.AnyPort == b.AnyPort &&
		slices.EqualFunc(a.Peers, b.Peers, samePeer) && slices.Equal(a.Ports, b.Ports)
}

func samePeer(a, b Peer) bool {
	return a.Kind == b.Kind && a.Pods == b.Pods && a.Nodes == b.Nodes && a.Block.Prefix == b.Block.Prefix &&
		slices.Equal(a.Block.Except, b.Block.Except)
}
