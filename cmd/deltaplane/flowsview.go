// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// flowsJSON is what -o json prints. Scripts read it.
type flowsJSON struct {
	Connections []connectionJSON `json:"connections"`
	// Total is how many connections nodes have of those asked for: more than are listed if --limit cut them.
	Total uint64           `json:"connectionsTotal"`
	Drops []recentDropJSON `json:"drops"`
}

type connectionJSON struct {
	Type      string  `json:"type"` // "connection"
	Node      string  `json:"node"`
	Direction string  `json:"direction"` // seen from the pod, by who began it: "ingress" or "egress"
	Pod       endJSON `json:"pod"`
	Peer      endJSON `json:"peer"`
	Protocol  string  `json:"protocol"`
	Service   string  `json:"service"`  // that was dialled; empty if unknown
	Rule      string  `json:"rule"`     // that decided last; empty if none had to
	RuleSet   string  `json:"ruleSet"`  // in hexadecimal; empty if none judged it
	Policies  string  `json:"policies"` // of the rule set
	// IdleSeconds is how long ago the last packet was.
	IdleSeconds uint64 `json:"idleSeconds"`
	Answered    bool   `json:"answered"`
	Closing     bool   `json:"closing"`
	// Outdated says that policies have changed since it was judged: its next packet will be judged again, and may be denied.
	Outdated bool `json:"outdated"`
}

// endJSON is one end of a connection or packet.
type endJSON struct {
	Pod     string `json:"pod"` // empty if it is none, or isn't known
	Address string `json:"address"`
	Port    uint16 `json:"port"` // 0 if the protocol has none
}

type recentDropJSON struct {
	Type        string    `json:"type"` // "drop"
	Node        string    `json:"node"`
	Reason      string    `json:"reason"`
	Source      endJSON   `json:"source"` // with the port of the last
	Destination endJSON   `json:"destination"`
	Protocol    string    `json:"protocol"`
	Service     string    `json:"service"`
	Via         string    `json:"via"`       // "socket" or "packet"
	Direction   string    `json:"direction"` // of policy: "ingress" or "egress"; else empty
	Rule        string    `json:"rule"`      // of policy: that denies; empty if none allows
	RuleSet     string    `json:"ruleSet"`
	Policies    string    `json:"policies"`
	Revision    uint64    `json:"revision"` // of the node's layer
	Count       uint64    `json:"count"`    // with -f since it was told last
	First       time.Time `json:"first"`
	Latest      time.Time `json:"latest"`
}

func newFlowsJSON() *flowsJSON {
	return &flowsJSON{Connections: []connectionJSON{}, Drops: []recentDropJSON{}}
}

func (l *flowsJSON) add(other *flowsJSON) {
	l.Connections = append(l.Connections, other.Connections...)
	l.Drops = append(l.Drops, other.Drops...)
	l.Total += other.Total
}

func (n *names) connection(node string, c *schemas.Connection) connectionJSON {
	return connectionJSON{
		Type: "connection", Node: node, Direction: directionWord(c.GetDirection()),
		Pod: n.end(c.GetPod(), c.GetPodAddress(), c.GetPodPort()), Peer: n.end(c.GetPeerPod(), c.GetPeerAddress(), c.GetPeerPort()),
		Protocol: protocolWord(c.GetIpProtocol()), Service: c.GetService(), Rule: c.GetRule(), RuleSet: ruleSetWord(c.GetRuleSet()),
		Policies: c.GetPolicies(), IdleSeconds: uint64(c.GetIdle().AsDuration() / time.Second),
		Answered: c.GetAnswered(), Closing: c.GetClosing(), Outdated: c.GetOutdated(),
	}
}

func (n *names) drop(node string, r *schemas.RecentDrop) recentDropJSON {
	d := r.GetDrop()
	return recentDropJSON{
		Type: "drop", Node: node, Reason: d.GetReason(), Protocol: protocolWord(d.GetIpProtocol()),
		Source:      n.end(d.GetSourcePod(), d.GetSource(), d.GetSourcePort()),
		Destination: n.end(d.GetDestinationPod(), d.GetDestination(), d.GetDestinationPort()),
		Service:     d.GetService(), Via: d.GetVia(), Direction: directionWord(d.GetDirection()),
		Rule: d.GetRule(), RuleSet: ruleSetWord(d.GetRuleSet()), Policies: d.GetPolicies(), Revision: d.GetRevision(),
		Count: r.GetCount(), First: r.GetFirst().AsTime(), Latest: r.GetLatest().AsTime(),
	}
}

// end is one end; a pod of another node is known by the facts alone.
func (n *names) end(pod string, address []byte, port uint32) endJSON {
	addr, _ := netip.AddrFromSlice(address) // "invalid IP" is what people should see of another
	return endJSON{Pod: cmp.Or(pod, n.pods[addr]), Address: addr.String(), Port: uint16(port)}
}

// String returns the pod's name, else the address, with the port if there is one.
func (e endJSON) String() string {
	switch {
	case e.Pod != "" && e.Port != 0:
		return e.Pod + ":" + strconv.Itoa(int(e.Port))
	case e.Pod != "":
		return e.Pod
	case e.Port != 0:
		return hostPort(e.Address, e.Port)
	}
	return e.Address
}

func directionWord(d schemas.Direction) string {
	if d == schemas.Direction_DIRECTION_UNSPECIFIED {
		return ""
	}
	return model.Direction(d).String()
}

func protocolWord(number uint32) string {
	switch number {
	case unix.IPPROTO_ICMP:
		return "ICMP"
	case unix.IPPROTO_ICMPV6:
		return "ICMPv6"
	case uint32(model.TCP), uint32(model.UDP), uint32(model.SCTP):
		return model.Protocol(number).String()
	}
	return "protocol " + strconv.Itoa(int(number))
}

func ruleSetWord(id uint64) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", id)
}

// String returns what was said to whom, from who began it.
func (c *connectionJSON) String() string {
	from, to := c.Pod, c.Peer
	if c.Direction == model.Ingress.String() {
		from, to = c.Peer, c.Pod
	}
	text := fmt.Sprintf("%s %s → %s", c.Protocol, from, to)
	if c.Service != "" {
		text += " (" + c.Service + ")"
	}
	return text
}

// state says how a connection stands.
func (c *connectionJSON) state() string {
	switch {
	case c.Closing:
		return "closing"
	case !c.Answered:
		return "unanswered"
	}
	return "open"
}

// allowed says what let a connection begin.
func (c *connectionJSON) allowed() string {
	text := c.Direction + ": "
	switch {
	case c.Rule != "":
		text += c.Rule
	case c.RuleSet != "":
		text += "no rule of " + cmp.Or(c.Policies, "policies that are gone")
	default:
		text += "no policy"
	}
	if c.Outdated {
		text += " (to be judged again)"
	}
	return text
}

// String returns what was dropped. The source's port, which differs each time, is left out.
func (d *recentDropJSON) String() string {
	source := d.Source
	source.Port = 0
	text := fmt.Sprintf("%s %s → %s", d.Protocol, source, d.Destination)
	if d.Service != "" {
		text += " (" + d.Service + ")"
	}
	return text + "  " + d.Reason
}

// denied says what kept it from going on, as far as policies did.
func (d *recentDropJSON) denied() string {
	if d.Direction == "" {
		return ""
	}
	return d.Direction + ": " + cmp.Or(d.Rule, d.Policies, "no policy")
}

// write prints tables for people.
func (l *flowsJSON) write(w io.Writer, onlyDrops bool) error {
	var parts []string
	if !onlyDrops {
		t := newTable("NODE", "POD", "", "PEER", "PROTOCOL", "SERVICE", "STATE", "IDLE", "ALLOWED BY")
		for i := range l.Connections {
			c := &l.Connections[i]
			arrow := "→"
			if c.Direction == model.Ingress.String() {
				arrow = "←"
			}
			t.row(c.Node, c.Pod.String(), arrow, c.Peer.String(), c.Protocol, orDash(c.Service), c.state(),
				(time.Duration(c.IdleSeconds) * time.Second).String(), c.allowed())
		}
		parts = append(parts, t.String())
		if more := l.Total - uint64(len(l.Connections)); l.Total > uint64(len(l.Connections)) {
			parts[0] += fmt.Sprintf("and %s more, seen longer ago (--limit)\n", grouped(more))
		}
	}
	if onlyDrops || len(l.Drops) > 0 {
		t := newTable("NODE", "LAST", "COUNT", "FROM", "TO", "PROTOCOL", "REASON", "DENIED BY")
		for i := range l.Drops {
			d := &l.Drops[i]
			source := d.Source
			source.Port = 0
			t.row(d.Node, d.Latest.Local().Format("15:04:05"), grouped(d.Count), source.String(), d.Destination.String(), d.Protocol,
				d.Reason, orDash(d.denied()))
		}
		parts = append(parts, t.String())
	}
	_, err := io.WriteString(w, strings.Join(parts, "\n"))
	return err
}
