// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

func TestStatusSaysHowClientsPacketsGoOn(t *testing.T) {
	node := func(name string, external *schemas.External) *schemas.NodeStatus {
		return &schemas.NodeStatus{Node: name, Applied: &schemas.Applied{Node: name, MapsKind: "kernel", Sent: timestamppb.Now(), External: external}}
	}
	external := func(port, vni, slots uint32, uplinks ...*schemas.Uplink) *schemas.External {
		return &schemas.External{Device: "deltaplane0", Port: port, Vni: vni, MaglevSlots: slots, Uplinks: uplinks}
	}
	memory := &schemas.NodeStatus{Node: "memory", Applied: &schemas.Applied{Node: "memory", MapsKind: "memory", Sent: timestamppb.Now()}}
	usual := external(8475, 0xde17, 4093)
	fast := external(8475, 0xde17, 4093, &schemas.Uplink{Interface: "eth0", Xdp: "native"}, &schemas.Uplink{Interface: "eth1", Xdp: "off", Reason: "its driver has no XDP"})
	var none, veths []*schemas.NodeStatus
	for range behindShown + 2 {
		none = append(none, node("n", &schemas.External{Masqueraded: "why"}))
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		veths = append(veths, node(name, fast))
	}
	const of2 = "External    deltaplane0:8475 on 2 nodes   VXLAN 0xde17"
	for _, c := range []struct {
		name      string
		nodes     []*schemas.NodeStatus
		wide, bad bool
		want      []string
	}{
		{"nobody forwards", []*schemas.NodeStatus{memory}, false, false, nil},
		{"one node masquerades", []*schemas.NodeStatus{node("a", usual), node("b", &schemas.External{Masqueraded: "--tunnel-port is 0"}), node("c", usual), memory}, false, false, []string{
			"External    deltaplane0:8475 on 2 nodes, snat on 1 nodes   VXLAN 0xde17", "            b  snat: --tunnel-port is 0",
		}},
		{"one has another port", []*schemas.NodeStatus{node("a", usual), node("b", usual), node("c", external(8476, 0xde17, 4093))}, false, true, []string{
			"External    deltaplane0:8475 on 2 nodes, deltaplane0:8476 on 1 nodes   VXLAN 0xde17",
			"            c  UDP port 8476, most have 8475 (--tunnel-port): what it and they send each other for clients is lost",
		}},
		{"one has another number", []*schemas.NodeStatus{node("a", external(8475, 7, 4093)), node("b", usual), node("c", usual)}, false, true, []string{
			"External    deltaplane0:8475 on 3 nodes   VXLAN 0xde17",
			"            a  VXLAN number 0x7, most have 0xde17 (--tunnel-vni): what it and they send each other for clients is lost",
		}},
		{"two of each", []*schemas.NodeStatus{node("a", external(8475, 7, 4093)), node("b", usual)}, false, true, []string{
			"External    deltaplane0:8475 on 2 nodes   VXLAN 0x7",
			"            b  VXLAN number 0xde17, most have 0x7 (--tunnel-vni): what it and they send each other for clients is lost",
		}},
		{"older programmers", []*schemas.NodeStatus{node("a", usual), node("b", external(8475, 0, 0)), node("c", nil)}, false, false, []string{
			of2, "            not told, or not all of it, by an older programmer on b, c",
		}},
		{"with other tables", []*schemas.NodeStatus{node("a", external(8475, 0xde17, 1021)), node("b", usual), node("c", usual)}, false, false, []string{
			"External    deltaplane0:8475 on 3 nodes   VXLAN 0xde17",
			"            a  1,021 slots a Maglev table, most have 4,093 (--maglev-size): it picks other backends",
		}},
		{"with XDP", []*schemas.NodeStatus{node("a", fast), node("b", fast)}, false, false, []string{
			of2 + "   XDP native on 2 uplinks, off on 2 uplinks", "            XDP off, its driver has no XDP: a eth1, b eth1",
		}},
		{"with XDP on more", veths, false, false, []string{
			"External    deltaplane0:8475 on 5 nodes   VXLAN 0xde17   XDP native on 5 uplinks, off on 5 uplinks",
			"            XDP off, its driver has no XDP: a eth1, b eth1, c eth1 and 2 more",
		}},
		{"many do", none, false, false, append(append([]string{"External    snat on 22 nodes"}, repeat("            n  snat: why", behindShown)...), "            and 2 more (-o wide names all)")},
		{"many do, all named", none, true, false, append([]string{"External    snat on 22 nodes"}, repeat("            n  snat: why", 22)...)},
	} {
		var b strings.Builder
		status := statusFromProto(&schemas.Status{Nodes: c.nodes})
		statusView{clusterStatus: status, now: time.Unix(0, 0), wide: c.wide}.external(&b)
		var got []string
		if b.Len() > 0 {
			got = strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if status.Healthy == c.bad {
			t.Errorf("%s: healthy %v", c.name, status.Healthy)
		}
	}
}

// Scripts find who differs under .external, and the cluster's way to forward.
func TestStatusComparesNodesForScripts(t *testing.T) {
	external := &schemas.External{Device: "deltaplane0", Port: 8475, Vni: 0xde17, MaglevSlots: 4093}
	other := &schemas.External{Device: "deltaplane0", Port: 8476, Vni: 0xde17, MaglevSlots: 4093}
	status := statusFromProto(&schemas.Status{Forwarding: "dsr", Nodes: []*schemas.NodeStatus{
		{Node: "a", Applied: &schemas.Applied{External: external}}, {Node: "b", Applied: &schemas.Applied{External: other}}, {Node: "c", Applied: &schemas.Applied{External: external}},
	}})
	got, err := json.Marshal(status.External)
	want := `{"port":8475,"vni":56855,"maglevSlots":4093,"deaf":[{"node":"b","text":"UDP port 8476, most have 8475 (--tunnel-port)"}],"otherTables":[],"silent":[]}`
	if err != nil || string(got) != want || status.Forwarding != "dsr" {
		t.Errorf("forwarding %q, %s, %v; want %s", status.Forwarding, got, err, want)
	}
}

func repeat(line string, times int) []string {
	return strings.Split(strings.TrimSuffix(strings.Repeat(line+"\n", times), "\n"), "\n")
}
