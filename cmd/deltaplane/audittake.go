// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// commitJSON is one commit of the compiler: one revision, in all layers that it touched. Scripts read it.
type commitJSON struct {
	Type          string      `json:"type"` // "commit"
	Revision      uint64      `json:"revision"`
	Epoch         uint64      `json:"epoch"`
	Committed     time.Time   `json:"committed"`
	Causes        []causeJSON `json:"causes"`
	CausesLeftOut uint32      `json:"causesLeftOut,omitempty"`
	Deltas        []deltaJSON `json:"deltas"`
}

type deltaJSON struct {
	Layer       string     `json:"layer"`
	From        uint64     `json:"from"`
	To          uint64     `json:"to"`
	DigestAfter string     `json:"digestAfter"`
	Put         rowsJSON   `json:"put"`
	Removed     removeJSON `json:"removed"`
	summary     string
}

// removeJSON names the rows that a delta took away, by what is known of them.
type removeJSON struct {
	Frontends []string     `json:"frontends,omitempty"`
	Sets      []uint32     `json:"sets,omitempty"`
	Backends  []uint32     `json:"backends,omitempty"`
	Members   []memberJSON `json:"members,omitempty"`
	Endpoints []string     `json:"endpoints,omitempty"`

	Views        []viewJSON        `json:"views,omitempty"` // without their targets
	SourceRanges []sourceRangeJSON `json:"sourceRanges,omitempty"`
	Networks     []string          `json:"networks,omitempty"`
	HealthChecks []uint16          `json:"healthChecks,omitempty"`
	Nodes        []string          `json:"nodes,omitempty"`
	Self         bool              `json:"self,omitempty"`
}

// appliedJSON is one node that has one delta in its kernel.
type appliedJSON struct {
	Type          string     `json:"type"` // "applied"
	Node          string     `json:"node"`
	Layer         string     `json:"layer"`
	Epoch         uint64     `json:"epoch"`
	Revision      uint64     `json:"revision"`
	Applied       *time.Time `json:"applied"`
	LatencyMillis float64    `json:"latencyMillis"`
	Writes        uint64     `json:"writes"`
	Bytes         uint64     `json:"bytes"`
}

// eventJSON is something that people should know.
type eventJSON struct {
	Type     string     `json:"type"` // "event"
	Happened *time.Time `json:"happened"`
	Severity string     `json:"severity"`
	Service  string     `json:"service"`
	Node     string     `json:"node,omitempty"`
	Kind     string     `json:"kind"`
	Text     string     `json:"text"`
}

func (t *tail) take(r stored) error {
	switch r.stream {
	case schemas.Deltas.Name:
		return t.takeDelta(r)
	case schemas.AppliedReports.Name:
		return t.takeApplied(r)
	}
	return t.takeEvent(r)
}

func (t *tail) takeDelta(r stored) error {
	if r.Subject == schemas.SubjectEpoch || r.Subject == schemas.SubjectCheckpoint || r.Subject == schemas.SubjectHold {
		return nil
	}
	part, err := wire.DecodeDelta(r.Data)
	if err != nil {
		return t.print(eventJSON{
			Type: "event", Happened: &r.Time, Severity: "error", Service: "audit", Kind: "unreadable",
			Text: fmt.Sprintf("message %d of DELTA can't be read: %v", r.Sequence, err),
		})
	}
	d, complete, err := t.assembler.Add(part)
	if err != nil || !complete || t.before(uint64(d.To)) {
		return nil // the rest of a delta whose beginning is no longer kept, or was before --since
	}
	if t.open != nil && t.open.Revision != uint64(d.To) {
		if err := t.flush(); err != nil {
			return err
		}
	}
	t.add(&d)
	return nil
}

// before says that a revision is not asked for.
func (t *tail) before(revision uint64) bool {
	return t.since.revision > 0 && revision <= t.since.revision
}

func (t *tail) add(d *model.Delta) {
	if t.open == nil {
		t.open = &commitJSON{
			Type: "commit", Revision: uint64(d.To), Epoch: uint64(d.Epoch), Committed: d.Committed, Causes: []causeJSON{},
		}
	}
	t.open.addCauses(d)
	t.names.addRows(&d.Change.Put)
	t.open.Deltas = append(t.open.Deltas, deltaJSON{
		Layer: d.Layer.String(), From: uint64(d.From), To: uint64(d.To), DigestAfter: d.DigestAfter.String(),
		Put: t.names.changed(&d.Change.Put), Removed: t.names.removed(&d.Change.Remove), summary: summary(&d.Change),
	})
}

// flush tells the commit whose deltas have been collected.
func (t *tail) flush() error {
	if t.open == nil {
		return nil
	}
	c := *t.open
	t.open = nil
	t.begin(c)
	return t.print(c)
}

// addCauses adds what a delta names and no delta of the same commit has named before.
func (c *commitJSON) addCauses(d *model.Delta) {
	c.CausesLeftOut = max(c.CausesLeftOut, d.CausesLeftOut)
	for _, cause := range causesOf(d.Causes) {
		if !slices.ContainsFunc(c.Causes, func(o causeJSON) bool { return o.title() == cause.title() }) {
			c.Causes = append(c.Causes, cause)
		}
	}
}

func (t *tail) takeApplied(r stored) error {
	var m schemas.Applied
	if wire.Unmarshal(r.Data, &m) != nil {
		return nil
	}
	if node, err := schemas.NodeOfSubject(r.Subject); err != nil || node != m.GetNode() {
		return t.spoofed(r, node, m.GetNode())
	}
	for _, d := range m.GetDeltas() {
		if t.before(d.GetRevision()) {
			continue
		}
		if err := t.flush(); err != nil {
			return err
		}
		applied := appliedJSON{
			"applied", m.GetNode(), d.GetLayer(), d.GetEpoch(), d.GetRevision(), timeOf(d.GetApplied()),
			millis(d.GetLatency().AsDuration()), d.GetWrites(), d.GetBytes(),
		}
		if err := t.print(applied); err != nil {
			return err
		}
		if live := t.arrived(applied); live != nil {
			if err := t.print(*live); err != nil {
				return err
			}
		}
	}
	return nil
}

var severities = map[schemas.Severity]string{
	schemas.Severity_SEVERITY_INFO: "info", schemas.Severity_SEVERITY_WARNING: "warning", schemas.Severity_SEVERITY_ERROR: "error",
}

func (t *tail) takeEvent(r stored) error {
	var m schemas.Event
	if wire.Unmarshal(r.Data, &m) != nil {
		return nil
	}
	service, node, err := schemas.SpeakerOfEvent(r.Subject)
	if err != nil || service != m.GetService() || node != m.GetNode() {
		return t.spoofed(r, strings.TrimSpace(service+" "+node), strings.TrimSpace(m.GetService()+" "+m.GetNode()))
	}
	return t.print(eventJSON{"event", timeOf(m.GetHappened()), severities[m.GetSeverity()], service, node, m.GetKind(), m.GetText()})
}

// spoofed tells of a message that says it is somebody else's than the subject, to which the server lets only its owner.
func (t *tail) spoofed(r stored, of, as string) error {
	return t.print(eventJSON{
		Type: "event", Happened: &r.Time, Severity: "error", Service: "audit", Kind: "spoofed",
		Text: fmt.Sprintf("message %d of %s is from %q and speaks for %.64q: it isn't shown; find out what runs there", r.Sequence, r.stream, of, as),
	})
}

func causesOf(causes []model.Cause) []causeJSON {
	return convertAll(causes, func(c model.Cause) causeJSON {
		out := causeJSON{Kind: c.Kind, Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion, Manager: c.Manager, Deleted: c.Deleted}
		if !c.Trigger.IsZero() {
			out.Trigger = &c.Trigger
		}
		return out
	})
}

// changed is rows without the tables that have none.
func (n *names) changed(rows *model.Rows) rowsJSON {
	var tables []string
	for table, count := range map[string]int{
		"frontends": len(rows.Frontends), "sets": len(rows.Sets), "backends": len(rows.Backends),
		"members": len(rows.Members), "endpoints": len(rows.Endpoints), "views": len(rows.Views),
		"source-ranges": len(rows.SourceRanges), "networks": len(rows.Networks), "health-checks": len(rows.HealthChecks), "nodes": len(rows.Nodes),
		"self": len(rows.Selves),
	} {
		if count > 0 {
			tables = append(tables, table)
		}
	}
	if len(tables) == 0 {
		return rowsJSON{}
	}
	return n.rows(rows, tables...)
}

func (n *names) removed(keys *model.Keys) removeJSON {
	var out removeJSON
	for _, k := range keys.Frontends {
		out.Frontends = append(out.Frontends, k.String())
	}
	for _, id := range keys.Sets {
		out.Sets = append(out.Sets, uint32(id))
	}
	for _, id := range keys.Backends {
		out.Backends = append(out.Backends, uint32(id))
	}
	for _, m := range keys.Members {
		out.Members = append(out.Members, n.member(m))
	}
	for _, a := range keys.Endpoints {
		out.Endpoints = append(out.Endpoints, a.String())
	}
	for _, v := range keys.Views {
		out.Views = append(out.Views, viewJSON{Set: uint32(v.Set), Service: n.service(v.Set), Scope: scopeName(v.Scope), Place: n.place(v.Place)})
	}
	for _, r := range keys.SourceRanges {
		out.SourceRanges = append(out.SourceRanges, sourceRangeJSON{uint32(r.Set), n.service(r.Set), r.Prefix.String()})
	}
	for _, p := range keys.Networks {
		out.Networks = append(out.Networks, p.String())
	}
	for _, id := range keys.Nodes {
		out.Nodes = append(out.Nodes, n.node(id))
	}
	out.HealthChecks, out.Self = keys.HealthChecks, len(keys.Selves) > 0
	return out
}
