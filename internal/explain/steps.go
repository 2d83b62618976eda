// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// namedBackends is how many backends a step spells out.
const namedBackends = 10

// steps tells a connection's life in sentences, one a step.
func (w *World) steps(c connection, o outcome, external *External) []string {
	steps := []string{w.start(c)}
	if c.onward {
		steps = append(steps, fmt.Sprintf("it is no Service's on node %s, and goes untranslated to node %s, which has %s", c.from.node, c.node, c.dialled.Addr()))
	}
	steps = append(steps, w.seen(c))
	switch {
	case o.Root == nil && o.Verdict == refmodel.Forward:
		steps = append(steps, w.untranslated(c))
	case o.Reason == model.ReasonWrongPort || o.Reason == model.ReasonUnallocated:
		steps = append(steps, w.unserved(c, o))
	case o.Root == nil:
		steps = append(steps, fmt.Sprintf("%s is a frontend, but its backend set %d is missing", c.dialled, o.Frontend.Set))
	default:
		steps = append(steps, frontend(c, o))
		steps = append(steps, w.narrowed(c, o)...)
		steps = append(steps, w.choice(c, o))
		switch {
		case external != nil:
			steps = append(steps, external.reached(c.source, c.dialled)...)
		case len(o.Candidates) > 0:
			steps = append(steps, w.seenAs(c, o))
		}
	}
	if o.evidence != "" {
		steps = append(steps, o.evidence)
	}
	return steps
}

// frontendKinds are the words for what is dialled.
var frontendKinds = map[model.FrontendKind]string{
	model.FrontendClusterIP: "the cluster IP", model.FrontendNodePort: "a NodePort", model.FrontendExternalIP: "an external IP",
	model.FrontendLoadBalancer: "a load balancer address",
}

func frontend(c connection, o outcome) string {
	if o.Frontend.Kind == model.FrontendHostPort {
		pod := serviceOf(o.Root.SetKey)
		return fmt.Sprintf("%s/%s is a hostPort of pod %s/%s", c.dialled, c.protocol, pod.Namespace, pod.Name)
	}
	return fmt.Sprintf("%s/%s is %s of Service %s", c.dialled, c.protocol, frontendKinds[o.Frontend.Kind], o.Root.Service)
}

// narrowed tells what narrowed the choice.
func (w *World) narrowed(c connection, o outcome) (steps []string) {
	if o.Frontend.Flags&model.SourceRanges != 0 && o.Reason != model.ReasonSourceRange {
		steps = append(steps, "its loadBalancerSourceRanges let the client in")
	}
	inside := w.node(c.node).Inside(c.dialler())
	switch {
	case o.Reason == model.ReasonNoBackend || o.Reason == model.ReasonSourceRange:
	case o.Set.Scope == model.ScopeLocal || o.Reason == model.ReasonNoLocalBackend:
		field := "externalTrafficPolicy"
		if inside || o.Frontend.Kind == model.FrontendClusterIP {
			field = "internalTrafficPolicy"
		}
		steps = append(steps, fmt.Sprintf("%s is Local: only backends on node %s count", field, c.node))
	case o.Frontend.Flags&model.ExternalLocal != 0 && inside:
		steps = append(steps, "externalTrafficPolicy Local is for clients from outside; this one is inside, and all backends count")
	case o.Set.Scope == model.ScopeNode:
		steps = append(steps, fmt.Sprintf("topology hints keep it on node %s", c.node))
	case o.Set.Scope == model.ScopeZone:
		steps = append(steps, fmt.Sprintf("topology hints keep it in zone %s", w.nodes[c.node].GetNode().GetZone()))
	}
	if o.Set.Affinity != 0 && o.Verdict == refmodel.Forward {
		steps = append(steps, fmt.Sprintf("session affinity keeps a client with the backend it has had in the last %d s", o.Set.Affinity))
	}
	return steps
}

// seenAs tells whom the backend sees.
func (w *World) seenAs(c connection, o outcome) string {
	if !o.masquerade() {
		return fmt.Sprintf("the backend sees the client's own address %s", c.source.Addr())
	}
	var seen []string
	for i, b := range o.Candidates {
		if o.masqueraded[i] {
			seen = append(seen, refmodel.AddrPort(b).String())
		}
	}
	if len(seen) < len(o.Candidates) {
		return fmt.Sprintf("it leaves node %s with the node's address if the backend is %s, so that answers come back this way; else the backend sees %s",
			c.node, strings.Join(firstOf(seen, namedBackends), ", "), c.source.Addr())
	}
	return fmt.Sprintf("it is given the address of node %s, so that answers come back this way", c.node)
}

// unserved tells of Services' addresses that serve nothing there.
func (w *World) unserved(c connection, o outcome) string {
	if o.Verdict == refmodel.Drop {
		return fmt.Sprintf("%s is in the Services' range, but no Service has it: dropped", c.dialled.Addr())
	}
	return fmt.Sprintf("%s is the cluster IP of Service %s, which has no port %d/%s: %s",
		c.dialled.Addr(), w.vips[c.dialled.Addr()], c.dialled.Port(), c.protocol, refusal(c))
}

// refusal tells how a client learns of it.
func refusal(c connection) string {
	switch {
	case c.via == viaSocket:
		return "refused at once (ECONNREFUSED)"
	case c.protocol == model.TCP:
		return "refused at once (TCP RST)"
	}
	return "refused at once (ICMP port unreachable)"
}

func (w *World) start(c connection) string {
	what := "an outside client"
	switch {
	case c.from.pod != "" && c.from.isHost:
		what = fmt.Sprintf("pod %s in the network of node %s", c.from.pod, c.from.node)
	case c.from.pod != "":
		what = fmt.Sprintf("pod %s on node %s", c.from.pod, c.from.node)
	case c.from.isHost:
		what = "a process of node " + c.from.node
	}
	to := c.dialled.String()
	if c.to.what != to {
		to = c.to.what + ", " + to
	}
	return fmt.Sprintf("%s, %s, sends %s to %s", what, c.source, c.protocol, to)
}

func (w *World) seen(c connection) string {
	switch {
	case c.via == viaSocket:
		return "the socket hooks of node " + c.node + " look at it before there is a packet"
	case c.via == viaPacket && c.arrives:
		return "the program at an uplink of node " + c.node + " looks at the packet"
	case c.via == viaPacket:
		return "the program at the pod's interface on node " + c.node + " looks at the packet"
	}
	return "no hook of node " + c.node + " looks at it: of the node's own sockets only TCP and UDP are seen"
}

func (w *World) untranslated(c connection) string {
	if c.via == viaNone {
		return fmt.Sprintf("it goes to %s (%s) untranslated", c.dialled, w.describe(c.dialled.Addr()))
	}
	text := fmt.Sprintf("%s/%s is no Service's: it goes to %s untranslated", c.dialled, c.protocol, w.describe(c.dialled.Addr()))
	if service, is := w.vips[c.dialled.Addr()]; is {
		text = fmt.Sprintf("%s is the cluster IP of Service %s, which has no port %d/%s: nothing translates it",
			c.dialled.Addr(), service, c.dialled.Port(), c.protocol)
	}
	return text
}

func (w *World) choice(c connection, o outcome) string {
	switch o.Verdict {
	case refmodel.Reject:
		return "no backend takes new connections: " + refusal(c)
	case refmodel.Drop:
		return "dropped: " + reasonText(o.Reason)
	}
	var named []string
	for _, b := range o.Candidates[:min(len(o.Candidates), namedBackends)] {
		text := fmt.Sprintf("%s (%s)", refmodel.AddrPort(b), w.describe(b.Addr))
		if b.State == model.BackendTerminating {
			text += " terminating, there is no other"
		}
		named = append(named, text)
	}
	if left := len(o.Candidates) - len(named); left > 0 {
		named = append(named, fmt.Sprintf("and %d more", left))
	}
	if len(o.Candidates) == 1 {
		return "its one backend takes it: " + named[0]
	}
	how := "chosen at random"
	if o.Set.Flags&model.External != 0 && !w.node(c.node).Inside(c.dialler()) && !o.KeepsAddress {
		how = "the same on whichever node it arrives, by a hash of the client's and the Service's ends"
		if o.Set.Affinity != 0 {
			how = "the same on whichever node it arrives, by a hash of the client's address"
		}
	}
	return fmt.Sprintf("one of %d backends takes it, %s: %s", len(o.Candidates), how, strings.Join(named, ", "))
}

func reasonText(reason model.DropReason) string {
	for _, r := range model.DropReasons {
		if r.Reason == reason {
			return r.Text
		}
	}
	return reason.String()
}
