// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Judgement is what policies say at both ends of a connection. A ruling is nil where the end is no pod that policies
// can select: a node, a pod in its network, something outside.
type Judgement struct {
	Egress, Ingress *Ruling
}

// Allowed says whether the connection may begin. (NP page: "for a connection from a source pod to a destination pod to
// be allowed, both the egress policy on the source pod and the ingress policy on the destination pod need to allow it".)
func (j Judgement) Allowed() bool { return j.Egress.Allowed() && j.Ingress.Allowed() }

// Ruling is what policies say at one pod, in one direction.
type Ruling struct {
	Pod       string // "namespace/name"
	Node      string // where it is
	Direction model.Direction
	Action    model.Action
	// Always says why it is allowed whatever policies say; empty if they were asked.
	Always string
	// Rule is what decided; nil if the lack of one did. An isolated pod has none, nor has one that no policy selects.
	Rule *model.Rule
	// Policies are those that select the pod in this direction, in the order in which they are asked.
	Policies []Asked
}

// Allowed says whether the connection may begin as far as this end is concerned.
func (r *Ruling) Allowed() bool { return r == nil || r.Action == model.ActionAllow }

// Policy is the one that decided: that of Rule, or the first that closes the pod. ok is false if no single one did.
func (r *Ruling) Policy() (name model.PolicyName, ok bool) {
	if r.Rule != nil {
		return r.Rule.Policy, true
	}
	for _, asked := range r.Policies {
		if r.Action == model.ActionClosed && asked.Refused != "" {
			return asked.Policy, true
		}
	}
	return model.PolicyName{}, false
}

// Asked is one policy that selects the pod.
type Asked struct {
	Policy  model.PolicyName
	Refused string             // why it is not in force, and closes the pod
	Reached bool               // nothing decided before it
	Matched int                // the place of its first rule that matches, -1 for none
	Name    string             // of that rule; may be empty
	Action  schemas.RuleAction // of that rule
	Miss    *Miss              // its rule that came nearest to allowing, if none matched and one might have
	Nearest bool               // no rule of another policy came nearer
}

// Judge says whether policies let a connection begin.
func (c *Cluster) Judge(conn Connection) Judgement {
	return Judgement{Egress: c.Egress(conn), Ingress: c.Ingress(conn)}
}

// Egress judges at the pod that has the source's address.
func (c *Cluster) Egress(conn Connection) *Ruling {
	return c.at(c.holders[conn.From], model.Egress, conn)
}

// Ingress judges at the pod that has the destination's address.
func (c *Cluster) Ingress(conn Connection) *Ruling {
	return c.at(c.holders[conn.To], model.Ingress, conn)
}

// at judges in one direction.
//
//  1. A pod reaches itself. (NP page: "A Pod cannot block access to itself".)
//  2. The pod's own node reaches it: kubelet's probes. (NP: traffic is allowed "if the traffic source is the pod's local
//     node". What the pod sends to its node is judged.)
//  3. A policy that selects the pod but isn't in force closes it: nobody knows what it would have denied.
//  4. Else the tiers decide: see tiers.
func (c *Cluster) at(subject *pod, d model.Direction, conn Connection) *Ruling {
	if subject == nil {
		return nil
	}
	r := &Ruling{Pod: subject.String(), Node: subject.node, Direction: d, Action: model.ActionAllow}
	switch {
	case conn.From == conn.To:
		r.Always = "a pod always reaches itself"
		return r
	case d == model.Ingress && c.has(subject.node, conn.From):
		r.Always = "a pod's own node always reaches it"
		return r
	}
	asked := c.selecting(subject, d)
	for _, p := range asked {
		r.Policies = append(r.Policies, c.ask(p, d, conn))
	}
	r.tiers(asked)
	r.nearest()
	return r
}

func (c *Cluster) has(nodeName string, address netip.Addr) bool {
	n := c.nodes[nodeName]
	return n != nil && slices.Contains(n.addresses, address)
}

// selecting returns the policies that have a say about a pod in a direction. (NP page: "a pod is isolated for ingress if
// there is any NetworkPolicy that both selects the pod and has Ingress in its policyTypes"; the same of egress.)
func (c *Cluster) selecting(subject *pod, d model.Direction) (found []*policy) {
	for _, p := range c.policies {
		if p.concerns[d] && c.selects(p, subject) {
			found = append(found, p)
		}
	}
	return found
}

// ask finds the first rule of a policy that matches.
func (c *Cluster) ask(p *policy, d model.Direction, conn Connection) Asked {
	a := Asked{Policy: p.PolicyName, Refused: p.refused, Matched: -1}
	if p.refused != "" {
		return a
	}
	for i, rule := range p.rules[d] {
		if c.matchesRule(p, d, rule, conn) {
			a.Matched, a.Name, a.Action = i, rule.GetName(), action(p, rule)
			return a
		}
	}
	a.Miss = c.nearestMiss(p, d, conn)
	return a
}

// tiers takes the answers of policies in their order.
//
//   - CNP, Admin tier: "If Admin tier has made a final decision (Accept or Deny) on a connection, then no further
//     evaluation is done"; Pass "skips all further ClusterNetworkPolicy rules in the current tier".
//   - NetworkPolicies: "always makes a final decision for selected pods"; allowed if any rule of any of them matches,
//     else the pod is isolated.
//   - CNP, Baseline tier: "further evaluation only happens for Pods not selected by a v1.NetworkPolicy".
//   - else "all pods can communicate with each other".
func (r *Ruling) tiers(asked []*policy) {
	for i, a := range r.Policies {
		if a.Refused != "" {
			r.Action = model.ActionClosed
			r.Policies[i].Reached = true
		}
	}
	if r.Action == model.ActionClosed || r.tier(model.AdminPolicy, asked) {
		return
	}
	isolated := slices.ContainsFunc(asked, func(p *policy) bool { return p.Kind == model.NetworkPolicy })
	if r.tier(model.NetworkPolicy, asked) {
		return
	}
	if isolated {
		r.Action = model.ActionIsolate
		return
	}
	r.tier(model.BaselinePolicy, asked)
}

// tier asks the policies of a kind, and says whether one decided.
func (r *Ruling) tier(kind model.PolicyKind, asked []*policy) bool {
	for i, p := range asked {
		if p.Kind != kind {
			continue
		}
		a := &r.Policies[i]
		a.Reached = true
		switch {
		case a.Matched < 0:
		case a.Action == schemas.RuleAction_RULE_ACTION_PASS:
			return false
		default:
			r.decide(p, a)
			return true
		}
	}
	return false
}

// decide ends with a rule.
func (r *Ruling) decide(p *policy, a *Asked) {
	if a.Action == schemas.RuleAction_RULE_ACTION_DENY {
		r.Action = model.ActionDeny
	}
	r.Rule = &model.Rule{
		Policy: p.PolicyName, Direction: r.Direction, Index: uint16(a.Matched),
		Name: a.Name, Action: r.Action,
	}
}
