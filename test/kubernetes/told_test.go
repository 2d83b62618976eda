// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// Actual returns the rows that a node's kernel holds, as its programmer reads them back.
func (b *Bus) Actual(t *testing.T, node string) *model.Rows {
	t.Helper()
	rows, err := b.actual(t.Context(), node)
	fatal(t, err)
	return rows
}

// actual may fail while the programmer is down.
func (b *Bus) actual(ctx context.Context, node string) (*model.Rows, error) {
	request, err := proto.Marshal(&schemas.DumpRequest{Node: node})
	if err != nil {
		return nil, err
	}
	var rows model.Rows
	err = b.conn.RequestMany(ctx, schemas.ActualSubject(node), request, bus.AnswerWithin, func(answer []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(answer, &reply); err != nil {
			return false, err
		}
		part, err := wire.RowsFromProto(reply.GetRows())
		rows.Append(&part)
		return !reply.GetLast(), err
	})
	return &rows, err
}

// told says rows with the meanings of sets, backends and identities in place of their numbers, which depend on how we
// got there.
func told(rows *model.Rows) (lines []string) {
	sets, backends := map[model.SetID]string{0: "nothing"}, map[model.BackendID]string{}
	say := func(format string, values ...any) { lines = append(lines, fmt.Sprintf(format, values...)) }
	for _, s := range rows.Sets {
		sets[s.ID] = fmt.Sprintf("%s IPv%d, scope %d of %x", s.Service, s.Family, s.Scope, uint64(s.Place))
	}
	for _, s := range rows.Sets {
		say("set %s: part of %s, flags %b, affinity %d s", sets[s.ID], sets[s.Root], s.Flags, s.Affinity)
	}
	for _, b := range rows.Backends {
		backends[b.ID] = fmt.Sprintf("%s port %d of %x for %s", b.Addr, b.Port, uint64(b.Place), sets[b.Set])
		say("backend %s: state %d", backends[b.ID], b.State)
	}
	for _, f := range rows.Frontends {
		say("frontend %s: kind %d, flags %b, to %s", f.FrontendKey, f.Kind, f.Flags, sets[f.Set])
	}
	for _, v := range rows.Views {
		say("view of %s, scope %d of %x: %s", sets[v.Set], v.Scope, uint64(v.Place), sets[v.Target])
	}
	for _, m := range rows.Members {
		say("member of %s: %s", sets[m.Set], backends[m.Backend])
	}
	for _, s := range rows.SourceRanges {
		say("source range of %s: %s", sets[s.Set], s.Prefix)
	}
	for _, n := range rows.Networks {
		say("network %s: kind %d", n.Prefix, n.Kind)
	}
	for _, n := range rows.Nodes {
		say("node %08x: %s", uint32(n.ID), n.Text())
	}
	for _, h := range rows.HealthChecks {
		say("health check %d: %s/%s", h.Port, h.Namespace, h.Name)
	}
	lines = append(lines, toldOfPolicy(rows)...)
	slices.Sort(lines)
	return lines
}

// toldOfPolicy is the part of told about pods and policies. An identity is what its first address or prefix has.
func toldOfPolicy(rows *model.Rows) (lines []string) {
	identities := identitiesOf(rows)
	say := func(format string, values ...any) { lines = append(lines, fmt.Sprintf(format, values...)) }
	for _, s := range rows.Selves {
		say("the node: zone %q, draining %v, policed %v", s.Zone, s.Draining, s.Policed)
	}
	for _, e := range rows.Endpoints {
		say("endpoint %s: %s, incarnation %x, ingress %x, egress %x", e.Addr, e.Pod, e.Incarnation, uint64(e.Ingress), uint64(e.Egress))
	}
	for _, s := range rows.RuleSets {
		say("rule set %+v", s)
	}
	for _, r := range rows.Rules {
		say("rule %+v", r)
	}
	for _, v := range rows.Verdicts {
		say("verdict of %x about %s: %s by %x, ports %x", uint64(v.RuleSet), identities[v.Identity], v.Action, uint64(v.Rule), uint64(v.Ports))
	}
	for _, v := range rows.PortVerdicts {
		say("verdict of ports %+v", v)
	}
	for _, p := range rows.Peers {
		say("peer %s: as %s", p.Addr, identities[p.Identity])
	}
	for _, b := range rows.Blocks {
		say("block %s: as %s", b.Prefix, identities[b.Identity])
	}
	return lines
}

// identitiesOf names each identity by the first of what has it.
func identitiesOf(rows *model.Rows) map[model.IdentityID]string {
	names := map[model.IdentityID]string{0: "strangers"}
	call := func(id model.IdentityID, name string) {
		if other, has := names[id]; id != 0 && (!has || name < other) {
			names[id] = name
		}
	}
	for _, p := range rows.Peers {
		call(p.Identity, p.Addr.String())
	}
	for _, b := range rows.Blocks {
		call(b.Identity, b.Prefix.String())
	}
	return names
}
