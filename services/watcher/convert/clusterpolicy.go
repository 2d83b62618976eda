// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"math"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/deltaplane/deltaplane/schemas"
)

// ClusterNetworkPolicies is the resource that is watched, of network-policy-api.
var ClusterNetworkPolicies = schema.GroupVersionResource{
	Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies",
}

const (
	maxPriority = 1000
	// maxRuleName bounds what of a rule's name is told, in bytes; the API bounds characters.
	maxRuleName = 100
)

// clusterNetworkPolicy converts a ClusterNetworkPolicy, which has no Go type here: what the API's next version adds
// must be seen. A peer that isn't known stays a peer that isn't known. Any other field that isn't known could narrow
// what it stands in, so the policy is refused, and still selects.
func clusterNetworkPolicy(u *unstructured.Unstructured) *schemas.ClusterNetworkPolicy {
	var r, ofSubject reader
	spec := r.fields("spec", u.Object["spec"], "tier", "priority", "subject", "ingress", "egress")
	out := &schemas.ClusterNetworkPolicy{Subject: ofSubject.subject("spec.subject", spec["subject"])}
	if ofSubject.err != nil {
		out.Subject = nil
	}
	out.Tier = r.tier("spec.tier", spec["tier"])
	out.Priority = uint32(r.number("spec.priority", spec["priority"], 0, maxPriority))
	ingress, egress := spec["ingress"], spec["egress"]
	out.Ingress = r.rules("spec.ingress", "from", ingress)
	out.Egress = r.rules("spec.egress", "to", egress)
	refuseClusterNetworkPolicy(out, first(ofSubject.err, r.err), !empty(ingress), !empty(egress))
	return out
}

func empty(v any) bool {
	list, isList := v.([]any)
	return v == nil || isList && len(list) == 0
}

var tiers = map[string]schemas.PolicyTier{
	"Admin": schemas.PolicyTier_POLICY_TIER_ADMIN, "Baseline": schemas.PolicyTier_POLICY_TIER_BASELINE,
}

func (r *reader) tier(field string, v any) schemas.PolicyTier {
	name := r.text(field, v)
	if tiers[name] == 0 {
		r.fail(field, "%q is not Admin or Baseline", name)
	}
	return tiers[name]
}

func (r *reader) subject(field string, v any) *schemas.PodPeer {
	if len(r.fields(field, v, "namespaces", "pods")) != 1 {
		r.fail(field, "wants one of namespaces and pods")
		return nil
	}
	return r.pods(field, v.(map[string]any))
}

// pods reads namespaces or pods of m: of namespaces all pods.
func (r *reader) pods(field string, m map[string]any) *schemas.PodPeer {
	if namespaces, ok := m["namespaces"]; ok {
		return &schemas.PodPeer{Namespaces: r.selector(field+".namespaces", namespaces)}
	}
	field += ".pods"
	pods := r.fields(field, m["pods"], "namespaceSelector", "podSelector")
	if pods["podSelector"] == nil {
		r.fail(field+".podSelector", "is missing")
	}
	out := &schemas.PodPeer{Namespaces: &schemas.Selector{}, Pods: r.selector(field+".podSelector", pods["podSelector"])}
	if pods["namespaceSelector"] != nil {
		out.Namespaces = r.selector(field+".namespaceSelector", pods["namespaceSelector"])
	}
	return out
}

func (r *reader) rules(field, direction string, v any) (rules []*schemas.PolicyRule) {
	for i, rule := range r.list(field, v) {
		rules = append(rules, r.rule(fmt.Sprintf("%s[%d]", field, i), direction, rule))
	}
	return rules
}

var actions = map[string]schemas.RuleAction{
	"Accept": schemas.RuleAction_RULE_ACTION_ACCEPT, "Deny": schemas.RuleAction_RULE_ACTION_DENY,
	"Pass": schemas.RuleAction_RULE_ACTION_PASS,
}

func (r *reader) rule(field, direction string, v any) *schemas.PolicyRule {
	m := r.fields(field, v, "name", "action", direction, "protocols")
	out := &schemas.PolicyRule{Name: ruleName(r.text(field+".name", m["name"]))}
	action := r.text(field+".action", m["action"])
	if out.Action = actions[action]; out.GetAction() == 0 {
		r.fail(field+".action", "%q is not Accept, Deny or Pass", action)
	}
	peers := r.list(field+"."+direction, m[direction])
	if len(peers) == 0 {
		r.fail(field+"."+direction, "is empty; a rule has at least one peer")
	}
	for i, peer := range peers {
		out.Peers = append(out.Peers, r.peer(fmt.Sprintf("%s.%s[%d]", field, direction, i), direction, peer)...)
	}
	protocols := m["protocols"]
	out.AnyPort = protocols == nil
	if protocols != nil && empty(protocols) {
		r.fail(field+".protocols", "is empty; leave it out for all protocols")
	}
	for i, protocol := range r.list(field+".protocols", protocols) {
		out.Ports = append(out.Ports, r.protocol(fmt.Sprintf("%s.protocols[%d]", field, i), protocol))
	}
	return out
}

// ruleName returns of a rule's name what can be told everywhere.
func ruleName(name string) string {
	name = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(name, "?"))
	return strings.ToValidUTF8(name[:min(len(name), maxRuleName)], "")
}

// peer reads one peer; one of networks is a block each. What has no field that is known, or one more that isn't, is of
// a newer API: then nobody knows whom it means.
func (r *reader) peer(field, direction string, v any) []*schemas.PolicyPeer {
	m := r.fields(field, v, anything)
	known := []string{"namespaces", "pods"}
	if direction == "to" {
		known = append(known, "nodes", "networks")
	}
	var has []string
	for _, name := range known {
		if _, ok := m[name]; ok {
			has = append(has, name)
		}
	}
	switch {
	case r.err != nil:
		return nil
	case len(has) > 1:
		r.fail(field, "wants one of %s, not %s", strings.Join(known, ", "), strings.Join(has, " and "))
		return nil
	case len(has) == 0 || len(m) > 1:
		return []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Unknown{Unknown: unknownPeer(m, has)}}}
	case has[0] == "nodes":
		return []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Nodes{Nodes: r.selector(field+".nodes", m["nodes"])}}}
	case has[0] == "networks":
		return r.networks(field+".networks", m["networks"])
	}
	return []*schemas.PolicyPeer{{Peer: &schemas.PolicyPeer_Pods{Pods: r.pods(field, m)}}}
}

// unknownPeer names the fields that aren't known.
func unknownPeer(m map[string]any, known []string) string {
	names := sortedKeys(m, known)
	if len(names) == 0 {
		return "a peer without a field"
	}
	return ruleName(strings.Join(names, ", "))
}

func (r *reader) networks(field string, v any) (peers []*schemas.PolicyPeer) {
	networks := r.list(field, v)
	if len(networks) == 0 {
		r.fail(field, "is empty; a peer has at least one network")
	}
	for i, text := range networks {
		at := fmt.Sprintf("%s[%d]", field, i)
		prefix, err := legacyPrefix(r.text(at, text))
		if err != nil {
			r.fail(at, "%w", err)
		}
		peers = append(peers, &schemas.PolicyPeer{Peer: &schemas.PolicyPeer_Block{Block: &schemas.BlockPeer{Cidr: prefix.String()}}})
	}
	return peers
}

var protocols = map[string]schemas.Protocol{
	"tcp": schemas.Protocol_PROTOCOL_TCP, "udp": schemas.Protocol_PROTOCOL_UDP, "sctp": schemas.Protocol_PROTOCOL_SCTP,
}

func (r *reader) protocol(field string, v any) *schemas.PolicyPort {
	m := r.fields(field, v, "tcp", "udp", "sctp", "destinationNamedPort")
	if len(m) != 1 {
		r.fail(field, "wants one of tcp, udp, sctp and destinationNamedPort")
		return nil
	}
	out := &schemas.PolicyPort{}
	for name, v := range m {
		at := field + "." + name
		if name == "destinationNamedPort" {
			out.Name = r.text(at, v)
			r.failed(portName(at, out.GetName()))
			continue
		}
		out.Protocol = protocols[name]
		port := r.fields(at, v, "destinationPort")["destinationPort"]
		if port == nil {
			r.fail(at+".destinationPort", "is missing")
		}
		out.Port, out.EndPort = r.ports(at+".destinationPort", port)
	}
	return out
}

func (r *reader) ports(field string, v any) (first, last uint32) {
	m := r.fields(field, v, "number", "range")
	if len(m) != 1 {
		r.fail(field, "wants one of number and range")
	}
	if number, ok := m["number"]; ok {
		return uint32(r.number(field+".number", number, 1, math.MaxUint16)), 0
	}
	field += ".range"
	m = r.fields(field, m["range"], "start", "end")
	first = uint32(r.number(field+".start", m["start"], 1, math.MaxUint16))
	last = uint32(r.number(field+".end", m["end"], 1, math.MaxUint16))
	if first >= last {
		r.fail(field, "%d is not below %d", first, last)
	}
	return first, last
}

// selector reads a metav1.LabelSelector.
func (r *reader) selector(field string, v any) *schemas.Selector {
	m := r.fields(field, v, "matchLabels", "matchExpressions")
	labels := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for key, v := range r.fields(field+".matchLabels", or(m["matchLabels"], map[string]any{}), anything) {
		labels.MatchLabels[key] = r.text(field+".matchLabels."+key, v)
	}
	for i, v := range r.list(field+".matchExpressions", m["matchExpressions"]) {
		at := fmt.Sprintf("%s.matchExpressions[%d]", field, i)
		e := r.fields(at, v, "key", "operator", "values")
		requirement := metav1.LabelSelectorRequirement{
			Key: r.text(at+".key", e["key"]), Operator: metav1.LabelSelectorOperator(r.text(at+".operator", e["operator"])),
		}
		for j, value := range r.list(at+".values", e["values"]) {
			requirement.Values = append(requirement.Values, r.text(fmt.Sprintf("%s.values[%d]", at, j), value))
		}
		labels.MatchExpressions = append(labels.MatchExpressions, requirement)
	}
	out, err := selector(labels)
	if err != nil {
		r.fail(field, "%w", err)
	}
	return out
}
