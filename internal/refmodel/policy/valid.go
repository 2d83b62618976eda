// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// close refuses a policy as a whole: nobody knows what it allows, so its subjects pass nothing where it has a say.
func (p *policy) close(why string) {
	if p.refused == "" {
		p.refused = why
	}
}

// check refuses a policy that can't be understood. Where its subjects or its directions can't be made out it has all that
// it might have.
func (p *policy) check() {
	if p.Kind == 0 {
		p.Kind = model.AdminPolicy
		p.close("it is of no tier")
	}
	if p.priority > 1000 {
		p.close(fmt.Sprintf("priority %d", p.priority))
	}
	for _, s := range []*schemas.Selector{p.namespaces, p.pods} {
		if err := checkSelector(s); err != nil {
			p.close(err.Error())
			p.namespaces, p.pods = nil, nil
		}
	}
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		for i, rule := range p.rules[d] {
			if err := p.checkRule(rule); err != nil {
				p.close(fmt.Sprintf("%s[%d]: %v", d, i, err))
			}
		}
	}
	if p.refused != "" && !p.concerns[model.Ingress] && !p.concerns[model.Egress] {
		p.concerns[model.Ingress], p.concerns[model.Egress] = true, true
	}
}

func (p *policy) checkRule(rule *schemas.PolicyRule) error {
	accept, pass := schemas.RuleAction_RULE_ACTION_ACCEPT, schemas.RuleAction_RULE_ACTION_PASS
	if a := rule.GetAction(); p.Kind != model.NetworkPolicy && (a < accept || a > pass) {
		return fmt.Errorf("action %d", a)
	}
	for _, peer := range rule.GetPeers() {
		if err := checkPeer(peer); err != nil {
			return err
		}
	}
	for _, port := range rule.GetPorts() {
		if err := p.checkPort(port); err != nil {
			return err
		}
	}
	return nil
}

func checkPeer(peer *schemas.PolicyPeer) error {
	switch peer := peer.GetPeer().(type) {
	case *schemas.PolicyPeer_Pods:
		if err := checkSelector(peer.Pods.GetNamespaces()); err != nil {
			return err
		}
		return checkSelector(peer.Pods.GetPods())
	case *schemas.PolicyPeer_Nodes:
		return checkSelector(peer.Nodes)
	case *schemas.PolicyPeer_Block:
		for _, cidr := range append([]string{peer.Block.GetCidr()}, peer.Block.GetExcept()...) {
			if _, err := netip.ParsePrefix(cidr); err != nil {
				return fmt.Errorf("%q is no CIDR", cidr)
			}
		}
		return nil
	case *schemas.PolicyPeer_Unknown:
		return nil
	}
	return fmt.Errorf("a peer that names nothing")
}

func (p *policy) checkPort(port *schemas.PolicyPort) error {
	protocol := model.Protocol(port.GetProtocol())
	known := slices.Contains([]model.Protocol{model.TCP, model.UDP, model.SCTP}, protocol)
	switch first, last := port.GetPort(), port.GetEndPort(); {
	case !known && (protocol != 0 || port.GetName() == "" || p.Kind == model.NetworkPolicy):
		return fmt.Errorf("protocol %d", protocol)
	case first > 65535 || last > 65535 || last != 0 && (first == 0 || last < first):
		return fmt.Errorf("ports %d to %d", first, last)
	case port.GetName() != "" && (first != 0 || last != 0):
		return fmt.Errorf("port %s has a number, too", port.GetName())
	}
	return nil
}

// checkSelector refuses what LabelSelectorAsSelector does: an operator that it doesn't know, In and NotIn without
// values, Exists and DoesNotExist with some.
func checkSelector(selector *schemas.Selector) error {
	for _, term := range selector.GetTerms() {
		switch values := len(term.GetValues()); term.GetOperator() {
		case schemas.SelectorOperator_SELECTOR_OPERATOR_IN, schemas.SelectorOperator_SELECTOR_OPERATOR_NOT_IN:
			if values == 0 {
				return fmt.Errorf("label %s is compared with no values", term.GetKey())
			}
		case schemas.SelectorOperator_SELECTOR_OPERATOR_EXISTS, schemas.SelectorOperator_SELECTOR_OPERATOR_DOES_NOT_EXIST:
			if values != 0 {
				return fmt.Errorf("label %s is asked for with values", term.GetKey())
			}
		default:
			return fmt.Errorf("label %s is compared by operator %d", term.GetKey(), term.GetOperator())
		}
	}
	return nil
}
