// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/schemas"
)

func TestStatusSaysHowClientsPacketsGoOn(t *testing.T) {
	node := func(name string, external *schemas.External) *schemas.NodeStatus {
		return &schemas.NodeStatus{Node: name, Applied: &schemas.Applied{Node: name, External: external}}
	}
	tunnel := &schemas.External{Device: "deltaplane0", Port: 8475}
	fast := &schemas.External{Device: "deltaplane0", Port: 8475, Uplinks: []*schemas.Uplink{{Interface: "eth0", Xdp: "native"}, {Interface: "eth1", Xdp: "off"}}}
	some := []*schemas.NodeStatus{
		node("a", tunnel), node("b", &schemas.External{Masqueraded: "--tunnel-port is 0"}), node("c", tunnel), node("memory", nil),
	}
	other := &schemas.External{Device: "deltaplane0", Port: 8475, MaglevSlots: 1021}
	var none []*schemas.NodeStatus
	for range behindShown + 2 {
		none = append(none, node("n", &schemas.External{Masqueraded: "why"}))
	}
	for _, c := range []struct {
		name  string
		nodes []*schemas.NodeStatus
		wide  bool
		want  []string
	}{
		{"nobody forwards", []*schemas.NodeStatus{node("memory", nil)}, false, nil},
		{"one node masquerades", some, false, []string{"External    deltaplane0:8475 on 2 nodes, snat on 1 nodes", "            b  snat: --tunnel-port is 0"}},
		{"with XDP", []*schemas.NodeStatus{node("a", fast), node("b", fast)}, false, []string{"External    deltaplane0:8475 on 2 nodes   XDP native on 2 uplinks, off on 2 uplinks"}},
		{"with other tables", []*schemas.NodeStatus{node("a", other), node("b", tunnel)}, false, []string{
			"External    deltaplane0:8475 on 2 nodes   Maglev tables differ: 0 slots on 1 nodes, 1,021 slots on 1 nodes (--maglev-size)",
		}},
		{"many do", none, false, append(append([]string{"External    snat on 22 nodes"}, repeat("            n  snat: why", behindShown)...), "            and 2 more (-o wide names all)")},
		{"many do, all named", none, true, append([]string{"External    snat on 22 nodes"}, repeat("            n  snat: why", 22)...)},
	} {
		var b strings.Builder
		view := statusView{clusterStatus: statusFromProto(&schemas.Status{Nodes: c.nodes}), now: time.Unix(0, 0), wide: c.wide}
		view.external(&b)
		var got []string
		if b.Len() > 0 {
			got = strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func repeat(line string, times int) []string {
	return strings.Split(strings.TrimSuffix(strings.Repeat(line+"\n", times), "\n"), "\n")
}
