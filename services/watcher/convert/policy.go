// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/deltaplane/deltaplane/schemas"
)

// networkPolicy converts a NetworkPolicy. One that breaks a rule is refused, and still selects: leaving it out would
// open what it isolates.
func networkPolicy(p *networkingv1.NetworkPolicy) *schemas.NetworkPolicy {
	out := &schemas.NetworkPolicy{}
	var errTypes, errPods, errIngress, errEgress error
	out.IsolatesIngress, out.IsolatesEgress, errTypes = isolates(&p.Spec)
	if out.Pods, errPods = selector(&p.Spec.PodSelector); errPods != nil {
		errPods = fmt.Errorf("spec.podSelector: %w", errPods)
	}
	for i, r := range p.Spec.Ingress {
		if errIngress == nil {
			out.Ingress, errIngress = appendRule(out.GetIngress(), fmt.Sprintf("spec.ingress[%d]", i), "from", r.From, r.Ports)
		}
	}
	for i, r := range p.Spec.Egress {
		if errEgress == nil {
			out.Egress, errEgress = appendRule(out.GetEgress(), fmt.Sprintf("spec.egress[%d]", i), "to", r.To, r.Ports)
		}
	}
	refuseNetworkPolicy(out, first(errPods, errTypes, errIngress, errEgress))
	return out
}

// isolates says in which directions a NetworkPolicy isolates: without policyTypes always for ingress, and for egress if
// it has rules for that (networking/v1 defaults). Of types that can't be read it is both.
func isolates(spec *networkingv1.NetworkPolicySpec) (ingress, egress bool, err error) {
	for i, t := range spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			return true, true, fmt.Errorf("spec.policyTypes[%d]: %q is not Ingress or Egress", i, t)
		}
	}
	if len(spec.PolicyTypes) == 0 {
		return true, len(spec.Egress) > 0, nil
	}
	return slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress), nil
}

func appendRule(rules []*schemas.PolicyRule, field, direction string, peers []networkingv1.NetworkPolicyPeer,
	ports []networkingv1.NetworkPolicyPort,
) ([]*schemas.PolicyRule, error) {
	rule := &schemas.PolicyRule{
		Action: schemas.RuleAction_RULE_ACTION_ACCEPT, AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0,
	}
	for i, p := range peers {
		peer, err := policyPeer(p)
		if err != nil {
			return nil, fmt.Errorf("%s.%s[%d]%w", field, direction, i, err)
		}
		rule.Peers = append(rule.Peers, peer)
	}
	for i, p := range ports {
		port, err := policyPort(p)
		if err != nil {
			return nil, fmt.Errorf("%s.ports[%d].%w", field, i, err)
		}
		rule.Ports = append(rule.Ports, port)
	}
	return append(rules, rule), nil
}

// policyPeer's errors start with what follows the peer's field.
func policyPeer(p networkingv1.NetworkPolicyPeer) (*schemas.PolicyPeer, error) {
	switch {
	case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
		return nil, fmt.Errorf(".ipBlock: stands beside a selector; a peer is one or the other")
	case p.IPBlock != nil:
		block, err := blockPeer(p.IPBlock)
		return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: block}}, err
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		return nil, fmt.Errorf(": names no ipBlock, podSelector or namespaceSelector")
	}
	pods, errPods := selector(p.PodSelector)
	namespaces, errNamespaces := selector(p.NamespaceSelector)
	switch {
	case errPods != nil:
		return nil, fmt.Errorf(".podSelector: %w", errPods)
	case errNamespaces != nil:
		return nil, fmt.Errorf(".namespaceSelector: %w", errNamespaces)
	}
	return podPeer(namespaces, pods), nil
}

func podPeer(namespaces, pods *schemas.Selector) *schemas.PolicyPeer {
	return &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Pods{Pods: &schemas.PodPeer{Namespaces: namespaces, Pods: pods}}}
}

func blockPeer(b *networkingv1.IPBlock) (*schemas.BlockPeer, error) {
	block, err := legacyPrefix(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf(".ipBlock.cidr: %w", err)
	}
	out := &schemas.BlockPeer{Cidr: block.String()}
	for i, text := range b.Except {
		except, err := legacyPrefix(text)
		if err != nil {
			return nil, fmt.Errorf(".ipBlock.except[%d]: %w", i, err)
		}
		if !block.Contains(except.Addr()) || except.Bits() <= block.Bits() {
			return nil, fmt.Errorf(".ipBlock.except[%d]: %s is not inside %s", i, except, block)
		}
		out.Except = append(out.Except, except.String())
	}
	return out, nil
}

func policyPort(p networkingv1.NetworkPolicyPort) (*schemas.PolicyPort, error) {
	protocol, err := policyProtocol(p.Protocol)
	out := &schemas.PolicyPort{Protocol: protocol}
	switch {
	case err != nil:
		return nil, fmt.Errorf("protocol: %w", err)
	case p.Port == nil && p.EndPort != nil:
		return nil, fmt.Errorf("endPort: has no port to start at")
	case p.Port == nil:
		return out, nil
	case p.Port.Type == intstr.String && p.EndPort != nil:
		return nil, fmt.Errorf("endPort: can't end a range that starts at the named port %q", p.Port.StrVal)
	case p.Port.Type == intstr.String:
		out.Name = p.Port.StrVal
		return out, portName("port", out.GetName())
	}
	if out.Port, err = portOf(p.Port.IntVal); err != nil {
		return nil, fmt.Errorf("port: %w", err)
	}
	if p.EndPort == nil {
		return out, nil
	}
	if out.EndPort, err = portOf(*p.EndPort); err != nil {
		return nil, fmt.Errorf("endPort: %w", err)
	}
	if out.GetEndPort() < out.GetPort() {
		return nil, fmt.Errorf("endPort: %d is below port %d", out.GetEndPort(), out.GetPort())
	}
	return out, nil
}

// policyProtocol reads a protocol that is TCP if it is left out; one that is there and empty is none.
func policyProtocol(p *corev1.Protocol) (schemas.Protocol, error) {
	if p != nil && *p == "" {
		return 0, fmt.Errorf("%q is not TCP, UDP or SCTP", *p)
	}
	return protocolOf(value(p))
}

// portName checks the name of a container's port.
func portName(field, name string) error {
	if wrong := validation.IsValidPortName(name); len(wrong) > 0 {
		return fmt.Errorf("%s: %q is no port's name: %s", field, name, wrong[0])
	}
	return nil
}
