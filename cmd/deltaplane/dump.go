// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func newDumpCommand() *cobra.Command {
	var format outputFormat
	var from busFlags
	var o dumpOptions
	cmd := &cobra.Command{
		Use:   "dump --node NAME",
		Short: "Show the rows that a node holds, or should hold",
		Long: `dump shows a node's tables with names beside numbers: the rows read back from the node's kernel (--actual, the
default), or those that the compiler wants there (--desired). Both are asked for over the bus.`,
		Example: `  deltaplane dump --node node-a
  deltaplane dump --node node-a --table backends -o json | jq -r '.backends[] | select(.service == "shop/cart:80") | .address'
  diff <(deltaplane dump --node node-a --actual) <(deltaplane dump --node node-a --desired)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			d, err := o.run(cmd.Context(), conn)
			if err != nil {
				return err
			}
			return format.print(cmd.OutOrStdout(), d, d.write)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.node, "node", "", "the node")
	flags.StringVar(&o.table, "table", "", "one table only: "+strings.Join(tableNames, ", "))
	flags.BoolVar(&o.actual, "actual", false, "what is in the node's kernel (the default)")
	flags.BoolVar(&o.desired, "desired", false, "what the compiler wants there")
	cmd.MarkFlagsMutuallyExclusive("actual", "desired")
	must(cmd.MarkFlagRequired("node"))
	format.addFlag(cmd)
	from.add(cmd)
	return cmd
}

type dumpOptions struct {
	node            string
	table           string
	actual, desired bool
}

func (o *dumpOptions) check() error {
	if o.table != "" && !slices.Contains(tableNames, o.table) {
		return fmt.Errorf("table %q: want one of %s", o.table, strings.Join(tableNames, ", "))
	}
	return nil
}

// dumpJSON is what -o json prints. Scripts read it.
type dumpJSON struct {
	Node      string         `json:"node"`
	Source    string         `json:"source"` // "actual" or "desired"
	Positions []positionJSON `json:"positions"`
	Maps      []mapUseJSON   `json:"maps,omitempty"`
	rowsJSON
}

func (o *dumpOptions) run(ctx context.Context, conn *bus.Conn) (*dumpJSON, error) {
	d := &dumpJSON{Node: o.node, Source: "actual", Positions: []positionJSON{}}
	subject, who := schemas.ActualSubject(o.node), "programmer of node "+o.node
	if o.desired {
		d.Source, subject, who = "desired", schemas.SubjectDesired, "compiler"
	}
	rows, err := d.request(ctx, conn, subject, who)
	if err != nil {
		return nil, err
	}
	n := newNames()
	if err := n.readFacts(ctx, conn); err != nil {
		return nil, fmt.Errorf("read the pods' names: %w", err)
	}
	n.addRows(rows)
	if o.table != "" {
		d.rowsJSON = n.rows(rows, o.table)
	} else {
		d.rowsJSON = n.rows(rows)
	}
	return d, nil
}

// request reads all messages of the answer.
func (d *dumpJSON) request(ctx context.Context, conn *bus.Conn, subject, who string) (*model.Rows, error) {
	data, err := proto.Marshal(&schemas.DumpRequest{Node: d.Node})
	if err != nil {
		return nil, err
	}
	var rows model.Rows
	sequence := uint32(0)
	each := func(answer []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(answer, &reply); err != nil {
			return false, err
		}
		if reply.GetRefused() != "" {
			return false, fmt.Errorf("the %s refuses: %s", who, wire.Clean(reply.GetRefused(), len(reply.GetRefused())))
		}
		if reply.GetSequence() != sequence {
			return false, fmt.Errorf("a part of the answer is lost (part %d came instead of %d); ask again", reply.GetSequence(), sequence)
		}
		sequence++
		part, err := wire.RowsFromProto(reply.GetRows())
		if err != nil {
			return false, err
		}
		rows.Append(&part)
		d.Positions = append(d.Positions, convertAll(reply.GetPositions(), positionFromProto)...)
		d.Maps = append(d.Maps, convertAll(reply.GetMaps(), mapUseFromProto)...)
		return !reply.GetLast(), nil
	}
	if subject == schemas.SubjectDesired {
		err = conn.Ask(ctx, subject, data, each) // any replica answers
	} else {
		err = conn.RequestMany(ctx, subject, data, bus.AnswerWithin, each)
	}
	if errors.Is(err, bus.ErrNobody) {
		return nil, fmt.Errorf("the %s doesn't answer on the bus: does it run, and is the name right?", who)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the %s doesn't answer in time: it may be stopped, or too busy", who)
	}
	return &rows, err
}

// write prints the tables for people. Positions are left out, so that two dumps can be compared.
func (d *dumpJSON) write(w io.Writer) error {
	_, err := io.WriteString(w, d.rowsJSON.String())
	return err
}

// String writes each table under its headers, with a blank line between.
func (r rowsJSON) String() string {
	var parts []string
	if r.Frontends != nil {
		t := newTable("FRONTEND", "KIND", "SET", "SERVICE", "FLAGS")
		for _, f := range *r.Frontends {
			t.row(f.key, f.Kind, number(f.Set), orDash(f.Service), orDash(strings.Join(f.Flags, ",")))
		}
		parts = append(parts, t.String())
	}
	if r.Views != nil {
		t := newTable("SET", "SERVICE", "SCOPE", "PLACE", "TARGET", "TARGET'S SERVICE")
		for _, v := range *r.Views {
			t.row(number(v.Set), orDash(v.Service), v.Scope, orDash(v.Place), number(v.Target), orDash(v.Targets))
		}
		parts = append(parts, t.String())
	}
	if r.Sets != nil {
		t := newTable("SET", "SERVICE", "PROTOCOL", "FAMILY", "SCOPE", "BACKENDS", "PLACE", "ROOT", "FLAGS", "AFFINITY")
		for _, s := range *r.Sets {
			affinity := "-"
			if s.Affinity > 0 {
				affinity = number(s.Affinity) + " s"
			}
			t.row(number(s.ID), s.Service, s.Protocol, "IPv"+strconv.Itoa(s.Family), s.Scope, strconv.Itoa(s.Backends),
				orDash(s.Place), number(s.Root), orDash(strings.Join(s.Flags, ",")), affinity)
		}
		parts = append(parts, t.String())
	}
	if r.Backends != nil {
		t := newTable("BACKEND", "ADDRESS", "STATE", "POD", "NODE", "WEIGHT", "SERVICE")
		for _, b := range *r.Backends {
			t.row(number(b.ID), hostPort(b.Address, b.Port), b.State, orDash(b.Pod), orDash(b.Node), strconv.Itoa(int(b.Weight)), b.Service)
		}
		parts = append(parts, t.String())
	}
	if r.Members != nil {
		t := newTable("SET", "SERVICE", "BACKEND", "ADDRESS", "POD")
		for _, m := range *r.Members {
			t.row(number(m.Set), m.Service, number(m.Backend), m.Address, orDash(m.Pod))
		}
		parts = append(parts, t.String())
	}
	if r.Endpoints != nil {
		t := newTable("ENDPOINT", "POD", "INGRESS", "POLICIES", "EGRESS", "POLICIES")
		for _, e := range *r.Endpoints {
			t.row(e.Address, e.Pod, orDash(e.Ingress), orDash(e.IngressPolicies), orDash(e.Egress), orDash(e.EgressPolicies))
		}
		parts = append(parts, t.String())
	}
	return strings.Join(slices.Concat(parts, r.others(), r.policyTexts()), "\n")
}

// others writes the tables that lead from no Service's address to a backend.
func (r rowsJSON) others() (parts []string) {
	if r.SourceRanges != nil {
		t := newTable("SET", "SERVICE", "SOURCE RANGE")
		for _, s := range *r.SourceRanges {
			t.row(number(s.Set), orDash(s.Service), s.Prefix)
		}
		parts = append(parts, t.String())
	}
	if r.Networks != nil {
		t := newTable("NETWORK", "KIND")
		for _, n := range *r.Networks {
			t.row(n.Prefix, n.Kind)
		}
		parts = append(parts, t.String())
	}
	if r.HealthChecks != nil {
		t := newTable("HEALTH CHECK", "SERVICE")
		for _, h := range *r.HealthChecks {
			t.row(strconv.Itoa(int(h.Port)), h.Service)
		}
		parts = append(parts, t.String())
	}
	if r.Nodes != nil {
		t := newTable("NODE", "NUMBER", "IPV4", "IPV6")
		for _, n := range *r.Nodes {
			t.row(n.Node, fmt.Sprintf("%08x", n.Number), orDash(n.IPv4), orDash(n.IPv6))
		}
		parts = append(parts, t.String())
	}
	if r.Self != nil {
		t := newTable("ZONE", "DRAINING", "POLICED")
		for _, s := range *r.Self {
			t.row(orDash(s.Zone), strconv.FormatBool(s.Draining), strconv.FormatBool(s.Policed))
		}
		parts = append(parts, t.String())
	}
	return parts
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func hostPort(address string, port uint16) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return address + ":" + strconv.Itoa(int(port))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
