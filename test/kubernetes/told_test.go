// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// Actual returns the rows that a node's kernel holds, as its programmer reads them back.
func (b *Bus) Actual(t *testing.T, node string) *model.Rows {
	t.Helper()
	request, err := proto.Marshal(&schemas.DumpRequest{Node: node})
	fatal(t, err)
	var rows model.Rows
	fatal(t, b.conn.RequestMany(t.Context(), schemas.ActualSubject(node), request, func(answer []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(answer, &reply); err != nil {
			return false, err
		}
		part, err := wire.RowsFromProto(reply.GetRows())
		rows.Append(&part)
		return !reply.GetLast(), err
	}))
	return &rows
}

// told says rows with the meanings of sets and backends in place of their numbers, which depend on how we got there.
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
	for _, e := range rows.Endpoints {
		say("endpoint %s: %s", e.Addr, e.Pod)
	}
	for _, n := range rows.Networks {
		say("network %s: kind %d", n.Prefix, n.Kind)
	}
	for _, h := range rows.HealthChecks {
		say("health check %d: %s/%s", h.Port, h.Namespace, h.Name)
	}
	slices.Sort(lines)
	return lines
}
