// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
)

// policyRowsJSON are the rows of policy with names beside numbers.
type policyRowsJSON struct {
	RuleSets *[]ruleSetJSON     `json:"ruleSets,omitempty"`
	Rules    *[]ruleJSON        `json:"rules,omitempty"`
	Verdicts *[]verdictJSON     `json:"verdicts,omitempty"`
	Ports    *[]portVerdictJSON `json:"ports,omitempty"`
	Peers    *[]peerJSON        `json:"peers,omitempty"`
	Blocks   *[]blockJSON       `json:"blocks,omitempty"`
}

type ruleSetJSON struct {
	ID        string   `json:"id"` // 16 hexadecimal digits
	Direction string   `json:"direction"`
	Policies  string   `json:"policies"`
	Pods      []string `json:"pods"` // that it judges here
}

type ruleJSON struct {
	ID        string `json:"id"`
	Policy    string `json:"policy"` // with its kind
	Direction string `json:"direction"`
	Index     uint16 `json:"index"`
	Name      string `json:"name,omitempty"`
	Action    string `json:"action"`
}

type verdictJSON struct {
	RuleSet   string `json:"ruleSet"`
	Direction string `json:"direction"`
	Policies  string `json:"policies"`
	Identity  uint32 `json:"identity"` // 0: all others
	// Whom are some of those who have the identity: pods, addresses and prefixes.
	Whom   []string `json:"whom"`
	Action string   `json:"action"`
	Rule   string   `json:"rule,omitempty"`
	Ports  string   `json:"ports,omitempty"` // the table of exceptions
}

type portVerdictJSON struct {
	Ports    string `json:"ports"`
	Protocol string `json:"protocol"`
	First    uint16 `json:"first"`
	Last     uint16 `json:"last"`
	Action   string `json:"action"`
	Rule     string `json:"rule,omitempty"`
}

type peerJSON struct {
	Address  string `json:"address"`
	Name     string `json:"name,omitempty"` // of the pod
	Identity uint32 `json:"identity"`
}

type blockJSON struct {
	Prefix   string `json:"prefix"`
	Identity uint32 `json:"identity"`
}

// policyNames give words to what policy numbers.
type policyNames struct {
	ruleSets map[model.RuleSetID]model.RuleSet
	rules    map[model.RuleID]model.Rule
	judges   map[model.RuleSetID][]string // pods
	whom     map[model.IdentityID][]string
}

// whomMost is how many of an identity are named.
const whomMost = 3

func (n *names) addPolicy(rows *model.Rows) {
	p := policyNames{
		ruleSets: map[model.RuleSetID]model.RuleSet{}, rules: map[model.RuleID]model.Rule{},
		judges: map[model.RuleSetID][]string{}, whom: map[model.IdentityID][]string{},
	}
	for _, s := range rows.RuleSets {
		p.ruleSets[s.ID] = s
	}
	for _, r := range rows.Rules {
		p.rules[r.ID] = r
	}
	for _, e := range sortedBy(rows.Endpoints, compareEndpoints) {
		for _, id := range []model.RuleSetID{e.Ingress, e.Egress} {
			if id != 0 && !slices.Contains(p.judges[id], e.Pod) {
				p.judges[id] = append(p.judges[id], e.Pod)
			}
		}
	}
	for _, peer := range sortedBy(rows.Peers, comparePeers) {
		p.whom[peer.Identity] = append(p.whom[peer.Identity], cmp.Or(n.pods[peer.Addr], peer.Addr.String()))
	}
	for _, b := range sortedBy(rows.Blocks, compareBlocks) {
		p.whom[b.Identity] = append(p.whom[b.Identity], b.Prefix.String())
	}
	n.policy = p
}

func (p *policyNames) rule(id model.RuleID) string {
	if r, known := p.rules[id]; known {
		return r.String()
	}
	return hexadecimal(uint64(id))
}

// some names some of an identity.
func (p *policyNames) some(id model.IdentityID) []string {
	if id == 0 {
		return []string{"all others"}
	}
	whom := slices.Compact(slices.Clone(p.whom[id]))
	if more := len(whom) - whomMost; more > 0 {
		whom = append(whom[:whomMost], fmt.Sprintf("and %d more", more))
	}
	return whom
}

// policyRows fills in the tables of policy.
func (n *names) policyRows(rows *model.Rows, out *rowsJSON, wanted func(string) bool) {
	p := &n.policy
	if wanted("rule-sets") {
		out.RuleSets = new(convertAll(sortedBy(rows.RuleSets, compareRuleSets), func(s model.RuleSet) ruleSetJSON {
			return ruleSetJSON{hexadecimal(uint64(s.ID)), s.Direction.String(), s.Policies, slices.Concat([]string{}, p.judges[s.ID])}
		}))
	}
	if wanted("rules") {
		out.Rules = new(convertAll(sortedBy(rows.Rules, compareRules), func(r model.Rule) ruleJSON {
			return ruleJSON{hexadecimal(uint64(r.ID)), r.Policy.String(), r.Direction.String(), r.Index, r.Name, r.Action.String()}
		}))
	}
	if wanted("verdicts") {
		out.Verdicts = new(convertAll(sortedBy(rows.Verdicts, p.compareVerdicts), p.verdict))
	}
	if wanted("ports") {
		out.Ports = new(convertAll(sortedBy(rows.PortVerdicts, comparePorts), p.portVerdict))
	}
	if wanted("peers") {
		out.Peers = new(convertAll(sortedBy(rows.Peers, comparePeers), func(r model.Peer) peerJSON {
			return peerJSON{r.Addr.String(), n.pods[r.Addr], uint32(r.Identity)}
		}))
	}
	if wanted("blocks") {
		out.Blocks = new(convertAll(sortedBy(rows.Blocks, compareBlocks), func(b model.Block) blockJSON {
			return blockJSON{b.Prefix.String(), uint32(b.Identity)}
		}))
	}
}

func (p *policyNames) verdict(v model.Verdict) verdictJSON {
	s := p.ruleSets[v.RuleSet]
	return verdictJSON{
		hexadecimal(uint64(v.RuleSet)), s.Direction.String(), s.Policies, uint32(v.Identity), slices.Concat([]string{}, p.some(v.Identity)),
		v.Action.String(), p.rule(v.Rule), hexadecimal(uint64(v.Ports)),
	}
}

func (p *policyNames) portVerdict(v model.PortVerdict) portVerdictJSON {
	last := v.Port | uint16(0xffff>>v.Bits)
	return portVerdictJSON{hexadecimal(uint64(v.Ports)), v.Protocol.String(), v.Port, last, v.Action.String(), p.rule(v.Rule)}
}

// endpoint names the rule sets that judge an endpoint.
func (p *policyNames) endpoint(e model.Endpoint) endpointJSON {
	return endpointJSON{
		e.Addr.String(), e.Pod, hexadecimal(uint64(e.Ingress)), p.ruleSets[e.Ingress].Policies,
		hexadecimal(uint64(e.Egress)), p.ruleSets[e.Egress].Policies,
	}
}

// hexadecimal writes what is known by a hash; nothing for 0.
func hexadecimal(id uint64) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", id)
}

// policyTexts writes the tables of policy for people.
func (r rowsJSON) policyTexts() (parts []string) {
	if r.RuleSets != nil {
		t := newTable("RULE SET", "DIRECTION", "POLICIES", "PODS")
		for _, s := range *r.RuleSets {
			t.row(s.ID, s.Direction, s.Policies, orDash(strings.Join(s.Pods, ",")))
		}
		parts = append(parts, t.String())
	}
	if r.Rules != nil {
		t := newTable("RULE", "POLICY", "DIRECTION", "INDEX", "NAME", "ACTION")
		for _, rule := range *r.Rules {
			t.row(rule.ID, rule.Policy, rule.Direction, number(uint32(rule.Index)), orDash(rule.Name), rule.Action)
		}
		parts = append(parts, t.String())
	}
	if r.Verdicts != nil {
		t := newTable("RULE SET", "DIRECTION", "POLICIES", "IDENTITY", "WHOM", "ACTION", "RULE", "PORTS")
		for _, v := range *r.Verdicts {
			t.row(v.RuleSet, v.Direction, orDash(v.Policies), number(v.Identity), orDash(strings.Join(v.Whom, ",")), v.Action, orDash(v.Rule), orDash(v.Ports))
		}
		parts = append(parts, t.String())
	}
	if r.Ports != nil {
		t := newTable("PORTS", "PROTOCOL", "RANGE", "ACTION", "RULE")
		for _, v := range *r.Ports {
			t.row(v.Ports, v.Protocol, portRange(v.First, v.Last), v.Action, orDash(v.Rule))
		}
		parts = append(parts, t.String())
	}
	if r.Peers != nil {
		t := newTable("PEER", "POD", "IDENTITY")
		for _, p := range *r.Peers {
			t.row(p.Address, orDash(p.Name), number(p.Identity))
		}
		parts = append(parts, t.String())
	}
	if r.Blocks != nil {
		t := newTable("BLOCK", "IDENTITY")
		for _, b := range *r.Blocks {
			t.row(b.Prefix, number(b.Identity))
		}
		parts = append(parts, t.String())
	}
	return parts
}

func portRange(first, last uint16) string {
	if first == last {
		return number(uint32(first))
	}
	return number(uint32(first)) + "-" + number(uint32(last))
}

func compareEndpoints(a, b model.Endpoint) int { return a.Addr.Compare(b.Addr) }
func comparePeers(a, b model.Peer) int         { return a.Addr.Compare(b.Addr) }
func compareBlocks(a, b model.Block) int       { return a.Prefix.Compare(b.Prefix) }

func compareRuleSets(a, b model.RuleSet) int {
	return cmp.Or(cmp.Compare(a.Policies, b.Policies), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.ID, b.ID))
}

func compareRules(a, b model.Rule) int {
	return cmp.Or(cmp.Compare(a.Policy.String(), b.Policy.String()), cmp.Compare(a.Direction, b.Direction),
		cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
}

func (p *policyNames) compareVerdicts(a, b model.Verdict) int {
	return cmp.Or(compareRuleSets(p.ruleSets[a.RuleSet], p.ruleSets[b.RuleSet]), cmp.Compare(a.RuleSet, b.RuleSet), cmp.Compare(a.Identity, b.Identity))
}

func comparePorts(a, b model.PortVerdict) int {
	return cmp.Or(cmp.Compare(a.Ports, b.Ports), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Bits, b.Bits))
}
