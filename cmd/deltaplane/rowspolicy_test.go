// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Policy row 11: what judges a pod is shown with the names of policies, rules and pods.
func TestADumpNamesWhatPolicyNumbers(t *testing.T) {
	policy := model.PolicyName{Kind: model.NetworkPolicy, Namespace: "shop", Name: "web"}
	rows := &model.Rows{
		Endpoints: []model.Endpoint{{Addr: netip.MustParseAddr("10.1.0.5"), Pod: "shop/web-1", Ingress: 0xabc}},
		RuleSets:  []model.RuleSet{{ID: 0xabc, Direction: model.Ingress, Policies: policy.String()}},
		Rules:     []model.Rule{{ID: 7, Policy: policy, Direction: model.Ingress, Action: model.ActionAllow}},
		Verdicts: []model.Verdict{
			{VerdictKey: model.VerdictKey{RuleSet: 0xabc, Identity: 4}, Action: model.ActionIsolate, Ports: 0x55, Rule: 0},
			{VerdictKey: model.VerdictKey{RuleSet: 0xabc}, Action: model.ActionIsolate},
		},
		PortVerdicts: []model.PortVerdict{{PortKey: model.PortKey{Ports: 0x55, Protocol: model.TCP, Port: 8080, Bits: 12}, Action: model.ActionAllow, Rule: 7}},
		Peers: []model.Peer{
			{Addr: netip.MustParseAddr("10.1.0.6"), Identity: 4},
			{Addr: netip.MustParseAddr("10.1.0.7"), Identity: 4},
			{Addr: netip.MustParseAddr("10.1.0.8"), Identity: 4},
			{Addr: netip.MustParseAddr("10.1.0.9"), Identity: 4},
		},
		Blocks: []model.Block{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Identity: 4}},
	}
	n := newNames()
	n.pods[netip.MustParseAddr("10.1.0.6")] = "shop/client"
	n.addRows(rows)
	got := n.rows(rows, "endpoints", "rule-sets", "rules", "verdicts", "ports", "peers", "blocks").String()
	want := strings.TrimPrefix(`
ENDPOINT  POD         INGRESS           POLICIES                EGRESS  POLICIES
10.1.0.5  shop/web-1  0000000000000abc  NetworkPolicy shop/web  -       -

RULE SET          DIRECTION  POLICIES                PODS
0000000000000abc  ingress    NetworkPolicy shop/web  shop/web-1

RULE              POLICY                  DIRECTION  INDEX  NAME  ACTION
0000000000000007  NetworkPolicy shop/web  ingress    0      -     allow

RULE SET          DIRECTION  POLICIES                IDENTITY  WHOM                                      ACTION   RULE  PORTS
0000000000000abc  ingress    NetworkPolicy shop/web  0         all others                                isolate  -     -
0000000000000abc  ingress    NetworkPolicy shop/web  4         shop/client,10.1.0.7,10.1.0.8,and 2 more  isolate  -     0000000000000055

PORTS             PROTOCOL  RANGE      ACTION  RULE
0000000000000055  TCP       8080-8095  allow   NetworkPolicy shop/web ingress[0]

PEER      POD          IDENTITY
10.1.0.6  shop/client  4
10.1.0.7  -            4
10.1.0.8  -            4
10.1.0.9  -            4

BLOCK       IDENTITY
10.0.0.0/8  4
`, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
