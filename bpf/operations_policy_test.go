// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// putPolicy gives the pod 10.1.0.9 a rule set for each direction, which isolate it but for 10.1.0.1, identity 1,
// 192.0.2.0/24, identity 2 with exceptions for ports, and whom a rule decides about.
func putPolicy(t testing.TB, d *Dataplane) {
	t.Helper()
	const table = 9
	rows := []any{
		testkit.Pod{Addr: netip.MustParseAddr("10.1.0.9"), Ingress: 1, Egress: 2, Incarnation: 1},
		model.Peer{Addr: netip.MustParseAddr("10.1.0.1"), Identity: 1},
		model.Peer{Addr: netip.MustParseAddr("10.1.0.2"), Identity: 3},
		model.Block{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Identity: 2},
		model.PortVerdict{PortKey: model.PortKey{Ports: table, Protocol: model.TCP, Port: 8080, Bits: 16}, Action: model.ActionAllow},
	}
	for set := range model.RuleSetID(2) {
		verdict := func(identity model.IdentityID, action model.Action, rule model.RuleID, ports model.PortsID) model.Verdict {
			return model.Verdict{VerdictKey: model.VerdictKey{RuleSet: set + 1, Identity: identity}, Action: action, Rule: rule, Ports: ports}
		}
		rows = append(rows, verdict(0, model.ActionIsolate, 0, 0), verdict(1, model.ActionAllow, 0, 0),
			verdict(2, model.ActionIsolate, 0, table), verdict(3, model.ActionAllow, 7, 0))
	}
	testkit.PutPolicy(t, d, rows...)
	check(t, d.Judge(true))
}

// TestMapOperationsOfPolicy holds what include/judge.h promises about the cost of a packet that is judged. Without
// policies it is TestMapOperationsPerPacket's, with one lookup of each packet that asks for them.
func TestMapOperationsOfPolicy(t *testing.T) {
	const pod, service, peer, stranger = "10.1.0.9:4000", "10.96.0.1:80", "10.1.0.1:8080", "192.0.2.7:8080"
	inOneSecond(t, Options{Capacities: small, Flows: 1024, Connections: 1024}, func(d *Dataplane) []operation {
		putPolicy(t, d)
		judgedAgain := func(frame []byte, index int) (Verdict, []byte, error) {
			check(t, d.Judge(true))
			return d.RunToPod(frame, index)
		}
		return []operation{
			{"new, to a peer", d.RunFromPod, frame(t, model.TCP, pod, peer, "S", 0), counted{10, 1}},
			{"known", d.RunFromPod, frame(t, model.TCP, pod, peer, "A", 0), counted{5, 0}},
			{"its answer", d.RunToPod, frame(t, model.TCP, peer, pod, "SA", 0), counted{3, 0}},
			{"new, of a peer", d.RunToPod, frame(t, model.TCP, "10.1.0.1:4", pod, "S", 0), counted{8, 1}},
			{"new, to a block, by port", d.RunFromPod, frame(t, model.TCP, pod, stranger, "S", 0), counted{12, 1}},
			{"denied, of nobody", d.RunToPod, frame(t, model.TCP, "203.0.113.7:4", pod, "S", 0), counted{8, 0}},
			{"new, by a rule", d.RunToPod, frame(t, model.TCP, "10.1.0.2:4", pod, "S", 0), counted{9, 2}},
			{"another, by this rule", d.RunToPod, frame(t, model.TCP, "10.1.0.2:5", pod, "S", 0), counted{9, 1}},
			{"new, to a Service", d.RunFromPod, frame(t, model.TCP, "10.1.0.9:5", service, "S", 0), counted{12, 3}},
			{"known, to a Service", d.RunFromPod, frame(t, model.TCP, "10.1.0.9:5", service, "A", 9), counted{3, 0}},
			{"its first answer", d.RunToPod, frame(t, model.TCP, "10.1.0.1:8080", "10.1.0.9:5", "SA", 9), counted{4, 0}},
			{"its next answer", d.RunToPod, frame(t, model.TCP, "10.1.0.1:8080", "10.1.0.9:5", "A", 9), counted{3, 0}},
			{"known, judged again", judgedAgain, frame(t, model.TCP, peer, pod, "A", 0), counted{6, 0}},
		}
	})
}
