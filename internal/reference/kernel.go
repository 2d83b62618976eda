// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

func dropReasons(top string) (string, error) {
	file, err := parse(top, "internal/model/reason.go")
	if err != nil {
		return "", err
	}
	if len(comments(file)) == 0 {
		return "", fmt.Errorf("internal/model/reason.go has no comments")
	}
	p := newPage("Drop reasons", "Why a packet or a connect went no further: label `reason` of the drop metrics, field `reason` of drop events, "+
		"the enum in `bpf/include/reasons.h`. Numbers are never reused.")
	var rows [][]string
	for _, d := range model.DropReasons {
		rows = append(rows, []string{strconv.Itoa(int(d.Reason)), "`" + d.Name + "`", d.Text})
	}
	p.table([]string{"number", "reason", "what happened"}, rows)
	return p.String(), nil
}

// shapes has the Go types of each map's keys and values; nil is a number.
var shapes = [abi.MapCount]struct{ key, value any }{
	abi.Frontends:    {abi.FrontendKey{}, abi.Frontend{}},
	abi.Views:        {abi.ViewKey{}, abi.View{}},
	abi.Sets:         {nil, abi.BackendSet{}},
	abi.Slots:        {abi.SlotKey{}, nil},
	abi.Backends:     {nil, abi.Backend{}},
	abi.Nodes:        {nil, abi.Node{}},
	abi.MaglevIndex:  {nil, nil},
	abi.Endpoints:    {[16]byte{}, abi.Endpoint{}},
	abi.SourceRanges: {abi.SourceRangeKey{}, abi.SourceRange{}},
	abi.Networks:     {abi.NetworkKey{}, abi.Network{}},
	abi.HealthChecks: {nil, abi.HealthCheck{}},
	abi.Selves:       {nil, abi.Self{}},
	abi.Peers:        {[16]byte{}, abi.Identity{}},
	abi.Blocks:       {abi.NetworkKey{}, abi.Identity{}},
	abi.Verdicts:     {abi.VerdictKey{}, abi.Verdict{}},
	abi.PortVerdicts: {abi.PortVerdictKey{}, abi.PortVerdict{}},
	abi.RuleSets:     {nil, abi.RuleSet{}},
	abi.Rules:        {nil, abi.Rule{}},
}

func mapLayouts(top string) (string, error) {
	file, err := parse(top, "internal/abi/abi.go")
	if err != nil {
		return "", err
	}
	said := comments(file)
	p := newPage("Map layouts", "The BPF maps that the programmer writes and the programs read, byte by byte. Addresses are 16 bytes, IPv4 mapped; ports "+
		"are in network byte order, all else in the host's. A changed layout gets a new name.")
	for m := range abi.MapCount {
		layout := abi.Layouts[m]
		p.section(layout.Name)
		p.text(about("", said[layoutName(m)]))
		var rows [][]string
		rows = append(rows, fields("key", shapes[m].key, layout.KeySize)...)
		rows = append(rows, fields("value", shapes[m].value, layout.ValueSize)...)
		p.table([]string{"part", "offset", "bytes", "field", "type"}, rows)
	}
	return p.String(), nil
}

func layoutName(m abi.Map) string {
	return [abi.MapCount]string{
		abi.Frontends: "Frontends", abi.Views: "Views", abi.Sets: "Sets", abi.Slots: "Slots", abi.Backends: "Backends", abi.Nodes: "Nodes", abi.MaglevIndex: "MaglevIndex", abi.Endpoints: "Endpoints",
		abi.SourceRanges: "SourceRanges", abi.Networks: "Networks", abi.HealthChecks: "HealthChecks", abi.Selves: "Selves",
		abi.Peers: "Peers", abi.Blocks: "Blocks", abi.Verdicts: "Verdicts", abi.PortVerdicts: "PortVerdicts", abi.RuleSets: "RuleSets",
		abi.Rules: "Rules",
	}[m]
}

func fields(part string, shape any, size int) [][]string {
	if shape == nil {
		return [][]string{{part, "0", strconv.Itoa(size), "id", "u" + strconv.Itoa(8*size)}}
	}
	t := reflect.TypeOf(shape)
	if t.Kind() != reflect.Struct {
		return [][]string{{part, "0", strconv.Itoa(size), "address", "16 bytes"}}
	}
	var rows [][]string
	for f := range t.Fields() {
		name := f.Name
		if name == "_" {
			name = "(padding)"
		}
		rows = append(rows, []string{part, strconv.Itoa(int(f.Offset)), strconv.Itoa(int(f.Type.Size())), name, f.Type.String()})
	}
	return rows
}
