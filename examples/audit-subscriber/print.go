// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// rowsShown bounds the rows that are printed of one message as text; JSON has all.
const rowsShown = 12

// printer prints records. It remembers when deltas were committed, to say how long nodes took.
type printer struct {
	out      io.Writer
	json     bool
	from     uint64 // revisions before this are left out
	revision uint64 // that was printed last
	epoch    uint64
	commits  *commits
}

func newPrinter(output string, out io.Writer, from uint64) (*printer, error) {
	if output != "text" && output != "json" {
		return nil, fmt.Errorf("--output %q: want text or json", output)
	}
	return &printer{out: out, json: output == "json", from: from, commits: newCommits()}, nil
}

// print prints one record. A message that can't be read is printed as such: an audit leaves nothing out.
func (p *printer) print(r record) error {
	switch {
	case r.subject == "" || r.subject == schemas.SubjectCheckpoint:
		return nil // a checkpoint repeats what the deltas before it said
	case r.subject == schemas.SubjectHold:
		return nil // the events say who rolled back, and who resumed
	case r.subject == schemas.SubjectEpoch:
		return decode(p, r, p.taken)
	case r.stream == schemas.Deltas.Name:
		return decode(p, r, p.delta)
	case r.stream == schemas.AppliedReports.Name:
		return decode(p, r, p.applied)
	}
	return decode(p, r, p.event)
}

// message is a pointer to a protobuf message of type M.
type message[M any] interface {
	*M
	proto.Message
}

func decode[M any, PM message[M]](p *printer, r record, each func(record, PM) error) error {
	m := PM(new(M))
	if err := proto.Unmarshal(r.data, m); err != nil {
		return p.write(r, line{Type: "unreadable", Subject: r.subject, Text: err.Error()})
	}
	return each(r, m)
}

func (p *printer) taken(r record, e *schemas.Epoch) error {
	if e.GetEpoch() == p.epoch {
		return nil // written again, so that a full log doesn't forget it
	}
	p.epoch = e.GetEpoch()
	return p.write(r, line{Type: "epoch", Epoch: e.GetEpoch(), Text: "led by " + e.GetHolder()})
}

func (p *printer) delta(r record, d *schemas.Delta) error {
	p.commits.add(d.GetLayer(), d.GetTo(), d.GetCommitted().AsTime())
	if d.GetTo() < p.from {
		return nil
	}
	l := line{
		Type: "delta", Epoch: d.GetEpoch(), Revision: d.GetTo(), From: d.GetFrom(), Layer: d.GetLayer(), Bytes: uint64(len(r.data)),
		Rows: append(removed(d.GetRemove()), put(d.GetPut())...), Digest: fmt.Sprintf("%x", d.GetDigestAfter()),
	}
	if d.GetParts() > 1 {
		l.Part = fmt.Sprintf("%d of %d", d.GetPart()+1, d.GetParts())
	}
	for _, c := range d.GetCauses() {
		l.Causes = append(l.Causes, causeOf(c))
	}
	l.CausesLeftOut = d.GetCausesLeftOut()
	return p.write(r, l)
}

func (p *printer) applied(r record, a *schemas.Applied) error {
	// The server lets a node speak on its own subject alone, whatever it says inside.
	if node, err := schemas.NodeOfSubject(r.subject); err != nil || node != a.GetNode() {
		return p.write(r, line{Type: "unreadable", Subject: r.subject, Text: fmt.Sprintf("it speaks for %q", a.GetNode())})
	}
	for _, d := range a.GetDeltas() {
		if d.GetRevision() < p.from {
			continue
		}
		err := p.write(r, line{
			Type: "applied", Node: a.GetNode(), Layer: d.GetLayer(), Epoch: d.GetEpoch(), Revision: d.GetRevision(),
			Writes: d.GetWrites(), Bytes: d.GetBytes(), Applied: new(d.GetApplied().AsTime()),
			Milliseconds: p.commits.until(d.GetLayer(), d.GetRevision(), d.GetApplied().AsTime()),
		})
		if err != nil {
			return err
		}
	}
	for _, f := range a.GetFaults() {
		err := p.write(r, line{Type: "fault", Node: a.GetNode(), Kind: f.GetKind(), Text: f.GetText(), Layer: f.GetLayer(), Revision: f.GetRevision()})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *printer) event(r record, e *schemas.Event) error {
	if service, node, err := schemas.SpeakerOfEvent(r.subject); err != nil || service != e.GetService() || node != e.GetNode() {
		return p.write(r, line{Type: "unreadable", Subject: r.subject, Text: fmt.Sprintf("it speaks for %q", e.GetService()+" "+e.GetNode())})
	}
	severity := strings.ToLower(strings.TrimPrefix(e.GetSeverity().String(), "SEVERITY_"))
	l := line{Type: "event", Severity: severity, Service: e.GetService(), Node: e.GetNode(), Kind: e.GetKind(), Text: e.GetText()}
	if e.GetObject() != nil {
		l.Causes = []cause{{Object: name(e.GetObject())}}
	}
	return p.write(r, l)
}

// line is what is printed of one message; as JSON it is one object.
type line struct {
	Time          time.Time  `json:"time"`
	Type          string     `json:"type"` // delta, applied, epoch, event, fault or unreadable
	Subject       string     `json:"subject,omitempty"`
	Epoch         uint64     `json:"epoch,omitempty"`
	Revision      uint64     `json:"revision,omitempty"`
	From          uint64     `json:"from,omitempty"`
	Layer         string     `json:"layer,omitempty"`
	Part          string     `json:"part,omitempty"`
	Causes        []cause    `json:"causes,omitempty"`
	CausesLeftOut uint32     `json:"causesLeftOut,omitempty"`
	Rows          []string   `json:"rows,omitempty"`
	Digest        string     `json:"digest,omitempty"`
	Node          string     `json:"node,omitempty"`
	Applied       *time.Time `json:"applied,omitempty"`
	Milliseconds  *float64   `json:"milliseconds,omitempty"` // from commit to kernel
	Writes        uint64     `json:"writes,omitempty"`
	Bytes         uint64     `json:"bytes,omitempty"`
	Severity      string     `json:"severity,omitempty"`
	Service       string     `json:"service,omitempty"`
	Kind          string     `json:"kind,omitempty"`
	Text          string     `json:"text,omitempty"`
}

type cause struct {
	Object          string     `json:"object"`
	UID             string     `json:"uid,omitempty"`
	ResourceVersion string     `json:"resourceVersion,omitempty"`
	Manager         string     `json:"manager,omitempty"`
	Trigger         *time.Time `json:"trigger,omitempty"`
	Deleted         bool       `json:"deleted,omitempty"`
}

func (p *printer) write(r record, l line) error {
	l.Time = r.time.UTC()
	var err error
	if p.json {
		err = json.NewEncoder(p.out).Encode(l)
	} else {
		_, err = io.WriteString(p.out, p.text(l))
	}
	if err != nil {
		return fmt.Errorf("print what happened: %w", err)
	}
	return nil
}
