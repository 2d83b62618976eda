// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// text is a line for people. The deltas of one revision stand together under what caused them.
func (p *printer) text(l line) string {
	var b strings.Builder
	at := l.Time.Format("15:04:05.000")
	switch l.Type {
	case "epoch":
		fmt.Fprintf(&b, "%s  epoch %d, %s\n", at, l.Epoch, l.Text)
	case "delta":
		if l.Revision != p.revision {
			p.revision = l.Revision
			fmt.Fprintf(&b, "%s  revision %d\n", at, l.Revision)
			causes(&b, l)
		}
		delta(&b, l)
	case "applied":
		fmt.Fprintf(&b, "%s    %s applied %s revision %d%s: %d writes\n", at, l.Node, l.Layer, l.Revision, after(l.Milliseconds), l.Writes)
	case "fault":
		fmt.Fprintf(&b, "%s    %s reports a fault (%s): %s\n", at, l.Node, l.Kind, l.Text)
	case "event":
		fmt.Fprintf(&b, "%s  %s %s: %s (%s)\n", at, l.Severity, strings.TrimSpace(l.Service+" "+l.Node), l.Text, l.Kind)
	default:
		fmt.Fprintf(&b, "%s  %s message on %s: %s\n", at, l.Type, l.Subject, l.Text)
	}
	return b.String()
}

func causes(b *strings.Builder, l line) {
	for _, c := range l.Causes {
		verb := "changed"
		if c.Deleted {
			verb = "deleted"
		}
		fmt.Fprintf(b, "    because %s was %s", c.Object, verb)
		if c.Manager != "" {
			fmt.Fprintf(b, " by %s", c.Manager)
		}
		b.WriteString("\n")
	}
	if l.CausesLeftOut > 0 {
		fmt.Fprintf(b, "    and %d more\n", l.CausesLeftOut)
	}
}

func delta(b *strings.Builder, l line) {
	fmt.Fprintf(b, "    %s", l.Layer)
	if l.Part != "" {
		fmt.Fprintf(b, ", part %s", l.Part)
	}
	fmt.Fprintf(b, ": %d rows, %d bytes\n", len(l.Rows), l.Bytes)
	for _, row := range l.Rows[:min(len(l.Rows), rowsShown)] {
		fmt.Fprintf(b, "      %s\n", row)
	}
	if n := len(l.Rows) - rowsShown; n > 0 {
		fmt.Fprintf(b, "      and %d more\n", n)
	}
}

func after(milliseconds *float64) string {
	if milliseconds == nil {
		return ""
	}
	return fmt.Sprintf(" after %.1f ms", *milliseconds)
}

func causeOf(c *schemas.Cause) cause {
	to := cause{
		Object: name(c.GetObject()), UID: c.GetObject().GetUid(), ResourceVersion: c.GetObject().GetResourceVersion(),
		Manager: c.GetManager(), Deleted: c.GetDeleted(),
	}
	if c.GetTriggerTime() != nil {
		to.Trigger = new(c.GetTriggerTime().AsTime())
	}
	return to
}

func name(o *schemas.ObjectRef) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// put returns a line for each row that a delta puts.
func put(r *schemas.Rows) []string {
	var lines []string
	add := func(format string, v ...any) { lines = append(lines, "+ "+fmt.Sprintf(format, v...)) }
	for _, b := range r.GetBackends() {
		state := strings.ToLower(strings.TrimPrefix(b.GetState().String(), "BACKEND_STATE_"))
		add("backend %d of set %d: %s %s", b.GetId(), b.GetSet(), endpoint(b.GetAddress(), b.GetPort()), state)
	}
	for _, s := range r.GetSets() {
		add("set %d: %s/%s:%d %s IPv%d", s.GetId(), s.GetNamespace(), s.GetService(), s.GetPort(), protocol(s.GetProtocol()), s.GetFamily())
	}
	for _, m := range r.GetMembers() {
		add("in set %d: backends %s", m.GetSet(), numbers(m.GetBackends()))
	}
	for _, f := range r.GetFrontends() {
		add("frontend %s to set %d", frontend(f.GetKey()), f.GetSet())
	}
	for _, e := range r.GetEndpoints() {
		add("endpoint %s is pod %s", address(e.GetAddress()), e.GetPod())
	}
	return lines
}

// removed returns a line for each row that a delta removes.
func removed(k *schemas.Keys) []string {
	var lines []string
	add := func(format string, v ...any) { lines = append(lines, "- "+fmt.Sprintf(format, v...)) }
	for _, f := range k.GetFrontends() {
		add("frontend %s", frontend(f))
	}
	for _, m := range k.GetMembers() {
		add("in set %d: backends %s", m.GetSet(), numbers(m.GetBackends()))
	}
	if len(k.GetSets()) > 0 {
		add("sets %s", numbers(k.GetSets()))
	}
	if len(k.GetBackends()) > 0 {
		add("backends %s", numbers(k.GetBackends()))
	}
	for _, e := range k.GetEndpoints() {
		add("endpoint %s", address(e))
	}
	return lines
}

func numbers(all []uint32) string { return strings.Trim(fmt.Sprint(all), "[]") }

func protocol(p schemas.Protocol) string { return strings.TrimPrefix(p.String(), "PROTOCOL_") }

func frontend(k *schemas.FrontendKey) string {
	return endpoint(k.GetAddress(), k.GetPort()) + "/" + protocol(k.GetProtocol())
}

func endpoint(addr []byte, port uint32) string {
	if a, ok := netip.AddrFromSlice(addr); ok {
		return netip.AddrPortFrom(a, uint16(port)).String()
	}
	return fmt.Sprintf("%s port %d", address(addr), port)
}

func address(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return fmt.Sprintf("(%d bytes that are no address)", len(b))
}

// commits remembers when the newest deltas of each layer were committed.
type commits struct {
	times  map[commit]time.Time
	oldest []commit
}

type commit struct {
	layer    string
	revision uint64
}

// commitsKept bounds what is remembered.
const commitsKept = 1 << 16

func newCommits() *commits { return &commits{times: map[commit]time.Time{}} }

func (c *commits) add(layer string, revision uint64, at time.Time) {
	key := commit{layer, revision}
	if _, known := c.times[key]; known {
		return
	}
	c.times[key] = at
	c.oldest = append(c.oldest, key)
	if len(c.oldest) > commitsKept {
		delete(c.times, c.oldest[0])
		c.oldest = c.oldest[1:]
	}
}

// until returns the milliseconds from a commit to at; nil if the commit isn't remembered.
func (c *commits) until(layer string, revision uint64, at time.Time) *float64 {
	committed, known := c.times[commit{layer, revision}]
	if !known {
		return nil
	}
	return new(float64(at.Sub(committed)) / float64(time.Millisecond))
}
