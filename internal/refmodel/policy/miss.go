// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Miss says how near a rule came to letting a connection begin.
type Miss struct {
	Rule    int // its place in the policy's list for the direction
	Aspects int // in how many it failed, at least 1: labels, namespaces, addresses, ports
	// Text is a sentence such as "allows app=gateway in namespace shop; this pod has app=frontend".
	Text string
}

// gap is what one part of a rule lacks to match.
type gap struct {
	aspects int
	allows  string // what it does match
	lacks   string // what is so instead
}

// noMatch is how far something is from matching that could never match.
const noMatch = 100

// nearestMiss returns of a policy's rules that allow the one that failed in the fewest aspects, of several the first;
// nil if none allows anything.
func (c *Cluster) nearestMiss(p *policy, d model.Direction, conn Connection) *Miss {
	var nearest *Miss
	for i, rule := range p.rules[d] {
		if action(p, rule) != schemas.RuleAction_RULE_ACTION_ACCEPT {
			continue
		}
		if m := c.miss(p, d, rule, conn); nearest == nil || m.Aspects < nearest.Aspects {
			m.Rule, nearest = i, &m
		}
	}
	return nearest
}

// miss says what a rule that doesn't match lacks.
func (c *Cluster) miss(p *policy, d model.Direction, rule *schemas.PolicyRule, conn Connection) Miss {
	best := Miss{Aspects: 2 * noMatch, Text: "allows no one"}
	try := func(peer, port gap) {
		if m := (Miss{Aspects: peer.aspects + port.aspects, Text: sentence(peer, port)}); m.Aspects < best.Aspects {
			best = m
		}
	}
	if rule.GetAnyPeer() {
		try(gap{}, c.portGap(d, rule, nil, conn))
	}
	for _, peer := range rule.GetPeers() {
		try(c.peerGap(p, d, peer, conn), c.portGap(d, rule, peer, conn))
	}
	return best
}

// sentence says what is allowed, and what is so instead.
func sentence(peer, port gap) string {
	switch {
	case peer.aspects == 0:
		return fmt.Sprintf("allows %s, not %s", port.allows, port.lacks)
	case port.aspects == 0:
		return fmt.Sprintf("allows %s; %s", peer.allows, peer.lacks)
	}
	return fmt.Sprintf("allows %s; %s; and only %s, not %s", peer.allows, peer.lacks, port.allows, port.lacks)
}

func (c *Cluster) peerGap(p *policy, d model.Direction, peer *schemas.PolicyPeer, conn Connection) gap {
	other := conn.peer(d)
	switch peer := peer.GetPeer().(type) {
	case *schemas.PolicyPeer_Pods:
		return c.podGap(p, peer.Pods, c.holders[other], other.String())
	case *schemas.PolicyPeer_Block:
		if inBlock(peer.Block, other) {
			return gap{}
		}
		g := gap{aspects: 2, allows: peer.Block.GetCidr(), lacks: fmt.Sprintf("%s is not in it", other)}
		if inBlock(&schemas.BlockPeer{Cidr: peer.Block.GetCidr()}, other) {
			g = gap{aspects: 1, allows: g.allows + " except " + strings.Join(peer.Block.GetExcept(), ", "), lacks: fmt.Sprintf("%s is excepted", other)}
		}
		return g
	case *schemas.PolicyPeer_Nodes:
		return c.nodeGap(peer.Nodes, conn)
	case *schemas.PolicyPeer_Unknown:
		return gap{aspects: noMatch, allows: peer.Unknown, lacks: "which this version doesn't know"}
	}
	return gap{aspects: noMatch, allows: "nothing", lacks: "the peer names none"}
}

// podGap counts the labels that differ; what is no pod is further away than any label.
func (c *Cluster) podGap(p *policy, peer *schemas.PodPeer, other *pod, address string) gap {
	g := gap{allows: c.podsText(p, peer)}
	if other == nil {
		return gap{aspects: 2 + len(peer.GetPods().GetTerms()), allows: g.allows, lacks: address + " is no pod's"}
	}
	var lacks []string
	for _, term := range failing(peer.GetPods(), other.labels) {
		lacks = append(lacks, "this pod has "+label(other.labels, term.GetKey()))
	}
	if !c.inNamespaces(peer.GetNamespaces(), p.Namespace, other) {
		lacks = append(lacks, c.namespaceLacks(peer, other))
	}
	g.aspects, g.lacks = len(lacks), strings.Join(lacks, " and ")
	return g
}

func (c *Cluster) namespaceLacks(peer *schemas.PodPeer, other *pod) string {
	if _, byName := onlyName(peer.GetNamespaces()); byName || peer.GetNamespaces() == nil {
		return "this pod is in namespace " + other.namespace
	}
	own := c.namespaceLabels(other.namespace)
	var has []string
	for _, term := range failing(peer.GetNamespaces(), own) {
		has = append(has, label(own, term.GetKey()))
	}
	return fmt.Sprintf("its namespace %s has %s", other.namespace, strings.Join(has, " and "))
}

// podsText says whom a peer is: "app=gateway in namespace shop", "pods in namespaces with team=a".
func (c *Cluster) podsText(p *policy, peer *schemas.PodPeer) string {
	text := describe(peer.GetPods())
	if text == "" {
		text = "pods"
	}
	name, byName := onlyName(peer.GetNamespaces())
	switch namespaces := describe(peer.GetNamespaces()); {
	case peer.GetNamespaces() == nil && p.Namespace != "":
		return text + " in namespace " + p.Namespace
	case byName:
		return text + " in namespace " + name
	case namespaces != "":
		return text + " in namespaces with " + namespaces
	}
	return text + " in any namespace"
}

func (c *Cluster) nodeGap(selector *schemas.Selector, conn Connection) gap {
	g := gap{aspects: 2 + len(selector.GetTerms()), allows: "nodes", lacks: conn.To.String() + " is no node's"}
	if text := describe(selector); text != "" {
		g.allows += " with " + text
	}
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		n := c.nodes[name]
		if terms := failing(selector, n.labels); slices.Contains(n.addresses, conn.To) && len(terms) < g.aspects {
			g.aspects, g.lacks = len(terms), ""
			if len(terms) > 0 {
				g.lacks = fmt.Sprintf("node %s has %s", n.name, label(n.labels, terms[0].GetKey()))
			}
		}
	}
	return g
}

// portGap says which ports a rule allows of a peer, nil being everyone.
func (c *Cluster) portGap(d model.Direction, rule *schemas.PolicyRule, peer *schemas.PolicyPeer, conn Connection) gap {
	named := c.destination(conn)
	if isPods := peer.GetPods() != nil; d == model.Egress && peer != nil && !isPods {
		named = nil
	}
	if c.matchesPorts(rule, conn, named) {
		return gap{}
	}
	g := gap{aspects: 2, lacks: portText(conn)}
	var texts []string
	same := !slices.ContainsFunc(rule.GetPorts(), func(port *schemas.PolicyPort) bool { return model.Protocol(port.GetProtocol()) != conn.Protocol })
	for _, port := range rule.GetPorts() {
		texts = append(texts, allowedPort(port, named))
		if port.GetName() == "" && model.Protocol(port.GetProtocol()) == conn.Protocol || sameNumber(port, conn) {
			g.aspects = 1
		}
		if port.GetName() != "" && named != nil {
			g.aspects = 1
		}
	}
	if g.allows = strings.Join(texts, " or "); len(texts) == 0 {
		g.allows = "no port"
	}
	if same { // then the protocol goes without saying
		g.allows, g.lacks = strings.ReplaceAll(g.allows, "/"+conn.Protocol.String(), ""), strings.TrimSuffix(g.lacks, "/"+conn.Protocol.String())
	}
	return g
}

// sameNumber says whether only the protocol differs.
func sameNumber(port *schemas.PolicyPort, conn Connection) bool {
	other := conn
	other.Protocol = model.Protocol(port.GetProtocol())
	return port.GetName() == "" && port.GetPort() != 0 && matchesPort(port, other, nil)
}

func portText(conn Connection) string {
	if !conn.hasPorts() {
		return conn.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", conn.Port, conn.Protocol)
}

func allowedPort(port *schemas.PolicyPort, named *pod) string {
	protocol := ""
	if port.GetProtocol() != 0 {
		protocol = "/" + model.Protocol(port.GetProtocol()).String()
	}
	switch {
	case port.GetName() != "":
		return "port " + port.GetName() + protocol + numberOf(port, named)
	case port.GetPort() == 0:
		return strings.TrimPrefix(protocol, "/")
	case port.GetEndPort() > port.GetPort():
		return fmt.Sprintf("ports %d-%d%s", port.GetPort(), port.GetEndPort(), protocol)
	}
	return fmt.Sprintf("port %d%s", port.GetPort(), protocol)
}

// numberOf says what a name means at a pod.
func numberOf(port *schemas.PolicyPort, named *pod) string {
	if named == nil {
		return " of pods"
	}
	for _, own := range named.ports {
		if isNamed(port, own) {
			return fmt.Sprintf(" (%d at %s)", own.GetPort(), named)
		}
	}
	return fmt.Sprintf(" (none at %s)", named)
}

// label writes a label as it is: "app=frontend", "no label app".
func label(of labels, key string) string {
	if value, has := of[key]; has {
		return key + "=" + value
	}
	return "no label " + key
}

// nearest marks the rule that came nearest to allowing, if nothing allowed: the fewest aspects, of several the first
// policy's. Rules that weren't reached don't count, nor do those of policies that are closed.
func (r *Ruling) nearest() {
	if r.Action == model.ActionAllow || r.Action == model.ActionClosed {
		return
	}
	var nearest *Asked
	for i := range r.Policies {
		a := &r.Policies[i]
		if a.Reached && a.Miss != nil && a.Miss.Aspects < noMatch && (nearest == nil || a.Miss.Aspects < nearest.Miss.Aspects) {
			nearest = a
		}
	}
	if nearest != nil {
		nearest.Nearest = true
	}
}
