// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"encoding/json"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/deltaplane/deltaplane/schemas"
)

// networkPolicy carries the spec as JSON once everything in it that could not be understood later is ruled out.
func networkPolicy(p *networkingv1.NetworkPolicy) (*schemas.NetworkPolicy, error) {
	if err := selector(&p.Spec.PodSelector); err != nil {
		return nil, fmt.Errorf("spec.podSelector: %w", err)
	}
	for i, t := range p.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			return nil, fmt.Errorf("spec.policyTypes[%d]: %q is not Ingress or Egress", i, t)
		}
	}
	for i, rule := range p.Spec.Ingress {
		if err := policyRule("from", rule.From, rule.Ports); err != nil {
			return nil, fmt.Errorf("spec.ingress[%d].%w", i, err)
		}
	}
	for i, rule := range p.Spec.Egress {
		if err := policyRule("to", rule.To, rule.Ports); err != nil {
			return nil, fmt.Errorf("spec.egress[%d].%w", i, err)
		}
	}
	spec, err := json.Marshal(p.Spec)
	if err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	return &schemas.NetworkPolicy{SpecJson: spec}, nil
}

// policyRule's errors start with the field below the rule.
func policyRule(direction string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) error {
	for i, peer := range peers {
		if err := policyPeer(peer); err != nil {
			return fmt.Errorf("%s[%d]%w", direction, i, err)
		}
	}
	for i, port := range ports {
		if err := policyPort(port); err != nil {
			return fmt.Errorf("ports[%d].%w", i, err)
		}
	}
	return nil
}

func policyPeer(peer networkingv1.NetworkPolicyPeer) error {
	if peer.IPBlock == nil {
		if peer.PodSelector == nil && peer.NamespaceSelector == nil {
			return fmt.Errorf(": names no ipBlock, podSelector or namespaceSelector")
		}
		if err := selector(peer.PodSelector); err != nil {
			return fmt.Errorf(".podSelector: %w", err)
		}
		if err := selector(peer.NamespaceSelector); err != nil {
			return fmt.Errorf(".namespaceSelector: %w", err)
		}
		return nil
	}
	if peer.PodSelector != nil || peer.NamespaceSelector != nil {
		return fmt.Errorf(".ipBlock: stands beside a selector; a peer is one or the other")
	}
	block, err := prefixOf(peer.IPBlock.CIDR)
	if err != nil {
		return fmt.Errorf(".ipBlock.cidr: %w", err)
	}
	for i, text := range peer.IPBlock.Except {
		except, err := prefixOf(text)
		if err != nil {
			return fmt.Errorf(".ipBlock.except[%d]: %w", i, err)
		}
		if !block.Contains(except.Addr()) || except.Bits() <= block.Bits() {
			return fmt.Errorf(".ipBlock.except[%d]: %s is not inside %s", i, except, block)
		}
	}
	return nil
}

func policyPort(port networkingv1.NetworkPolicyPort) error {
	if _, err := protocolOf(value(port.Protocol)); err != nil {
		return fmt.Errorf("protocol: %w", err)
	}
	if port.Port == nil {
		if port.EndPort != nil {
			return fmt.Errorf("endPort: has no port to start at")
		}
		return nil
	}
	if port.Port.Type == intstr.String {
		if port.EndPort != nil {
			return fmt.Errorf("endPort: can't end a range that starts at the named port %q", port.Port.StrVal)
		}
		return nil
	}
	first, err := portOf(port.Port.IntVal)
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	if port.EndPort == nil {
		return nil
	}
	last, err := portOf(*port.EndPort)
	if err != nil {
		return fmt.Errorf("endPort: %w", err)
	}
	if last < first {
		return fmt.Errorf("endPort: %d is below port %d", last, first)
	}
	return nil
}

// selector rules out what can't be matched against labels. None selects nothing here and is no error.
func selector(s *metav1.LabelSelector) error {
	_, err := metav1.LabelSelectorAsSelector(s)
	return err
}
