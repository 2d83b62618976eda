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
func (w *World) steps(c connection, o outcome) []string {
	steps := []string{w.start(c), w.seen(c)}
	switch {
	case o.Frontend == nil:
		steps = append(steps, w.untranslated(c))
	case o.Set == nil:
		steps = append(steps, fmt.Sprintf("%s is a frontend, but its backend set %d is missing", c.dialled, o.Frontend.Set))
	default:
		steps = append(steps, fmt.Sprintf("%s is Service %s", o.Frontend.FrontendKey, o.Set.Service), w.choice(c, o))
	}
	if o.evidence != "" {
		steps = append(steps, o.evidence)
	}
	if o.Verdict == refmodel.Forward {
		steps = append(steps, "network policy isn't enforced by this version: allowed")
	}
	return steps
}

func (w *World) start(c connection) string {
	what := "an outside client"
	switch {
	case c.from.pod != "" && c.from.isHost:
		what = fmt.Sprintf("pod %s in the network of node %s", c.from.pod, c.node)
	case c.from.pod != "":
		what = fmt.Sprintf("pod %s on node %s", c.from.pod, c.node)
	case c.from.isHost:
		what = "a process of node " + c.node
	}
	to := c.dialled.String()
	if c.to.what != to {
		to = c.to.what + ", " + to
	}
	return fmt.Sprintf("%s, %s, sends %s to %s", what, c.source, c.protocol, to)
}

func (w *World) seen(c connection) string {
	switch c.via {
	case viaSocket:
		return "the socket hooks of node " + c.node + " look at it before there is a packet"
	case viaPacket:
		return "the program at the pod's interface on node " + c.node + " looks at the packet"
	}
	return "no hook of node " + c.node + " looks at it: cluster IPs are served to pods and to the node's own TCP and UDP sockets"
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
	switch {
	case o.Verdict == refmodel.Reject && c.via == viaSocket:
		return "no backend takes new connections: refused at once (ECONNREFUSED)"
	case o.Verdict == refmodel.Reject && c.protocol == model.TCP:
		return "no backend takes new connections: refused at once (TCP RST)"
	case o.Verdict == refmodel.Reject:
		return "no backend takes new connections: refused at once (ICMP port unreachable)"
	case o.Verdict == refmodel.Drop:
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
	return fmt.Sprintf("one of %d backends takes it, chosen at random: %s", len(o.Candidates), strings.Join(named, ", "))
}

func reasonText(reason model.DropReason) string {
	for _, r := range model.DropReasons {
		if r.Reason == reason {
			return r.Text
		}
	}
	return reason.String()
}
