// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// What a stranger may send as rows of policy, each with what is said about it.
func TestForeignPolicyRowsAreRefusedByName(t *testing.T) {
	v4 := []byte{10, 0, 0, 1}
	ruleSet := func(m *schemas.RuleSet) *schemas.Rows { return &schemas.Rows{RuleSets: []*schemas.RuleSet{m}} }
	rule := func(change func(*schemas.Rule)) *schemas.Rows {
		m := &schemas.Rule{Id: 1, Kind: 2, Namespace: "a", Policy: "b", Direction: 1, Action: 1}
		change(m)
		return &schemas.Rows{Rules: []*schemas.Rule{m}}
	}
	port := func(m *schemas.PortKey) *schemas.Rows {
		return &schemas.Rows{PortVerdicts: []*schemas.PortVerdict{{Key: m, Action: 1}}}
	}
	for _, test := range []struct {
		want string
		rows *schemas.Rows
	}{
		{"rule set 0: rule set id 0 is no rule set", ruleSet(&schemas.RuleSet{Direction: 1})},
		{"rule set 0: direction 3 is unknown here", ruleSet(&schemas.RuleSet{Id: 1, Direction: 3})},
		{"direction 257 is unknown here", ruleSet(&schemas.RuleSet{Id: 1, Direction: 257})},
		{"policies of 256 bytes: at most 255", ruleSet(&schemas.RuleSet{Id: 1, Direction: 1, Policies: strings.Repeat("p", 256)})},
		{"rule 0: rule id 0 is no rule", rule(func(m *schemas.Rule) { m.Id = 0 })},
		{"policy kind 0 is unknown here", rule(func(m *schemas.Rule) { m.Kind = 0 })},
		{"namespace is empty", rule(func(m *schemas.Rule) { m.Namespace = "" })},
		{"namespace \"a\": a ClusterNetworkPolicy has none", rule(func(m *schemas.Rule) { m.Kind = 1 })},
		{"policy is empty", rule(func(m *schemas.Rule) { m.Policy = "" })},
		{"direction 0 is unknown here", rule(func(m *schemas.Rule) { m.Direction = 0 })},
		{"index 65536: at most 65535", rule(func(m *schemas.Rule) { m.Index = 65_536 })},
		{"a rule's action 3 is unknown here", rule(func(m *schemas.Rule) { m.Action = 3 })},
		{"name of 101 bytes: at most 100", rule(func(m *schemas.Rule) { m.Name = strings.Repeat("n", 101) })},
		{"verdict 0: rule set id 0", &schemas.Rows{Verdicts: []*schemas.Verdict{{Action: 1}}}},
		{"action 5 is unknown here", &schemas.Rows{Verdicts: []*schemas.Verdict{{Key: &schemas.VerdictKey{RuleSet: 1}, Action: 5}}}},
		{"port verdict 0: port table id 0 is no port table", port(&schemas.PortKey{Protocol: 6, Port: 80, Bits: 16})},
		{"protocol 1: want 6 (TCP)", port(&schemas.PortKey{Ports: 1, Protocol: 1})},
		{"ports 80/17: at most 16 bits", port(&schemas.PortKey{Ports: 1, Protocol: 6, Port: 80, Bits: 17})},
		{"port 65536: at most 65535", port(&schemas.PortKey{Ports: 1, Protocol: 6, Port: 65_536, Bits: 16})},
		{"ports 81/15 have bits set behind them", port(&schemas.PortKey{Ports: 1, Protocol: 6, Port: 81, Bits: 15})},
		{"peers 0: identity id 0 is no identity", &schemas.Rows{Peers: []*schemas.Peers{{Addresses: [][]byte{v4}}}}},
		{"peers of identity 7: address of 3 bytes", &schemas.Rows{Peers: []*schemas.Peers{{Identity: 7, Addresses: [][]byte{v4[:3]}}}}},
		{"prefix 10.0.0.1/8 has bits set behind it", &schemas.Rows{Blocks: []*schemas.Block{{Prefix: &schemas.Prefix{Address: v4, Bits: 8}}}}},
	} {
		if _, err := RowsFromProto(test.rows); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
	for want, keys := range map[string]*schemas.Keys{
		"rule set 1: rule set id 0":    {RuleSets: []uint64{1, 0}},
		"rule 0: rule id 0":            {Rules: []uint64{0}},
		"verdict key 0: rule set id 0": {Verdicts: []*schemas.VerdictKey{{}}},
		"port key 0: port table id 0":  {PortVerdicts: []*schemas.PortKey{{Protocol: 6}}},
		"peer 0: address of 0 bytes":   {Peers: [][]byte{{}}},
		"block 0: prefix with an":      {Blocks: []*schemas.Prefix{{}}},
	} {
		if _, err := KeysFromProto(keys); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestPolicyKeyThatStandsTwiceIsRefused(t *testing.T) {
	d := aDelta()
	addr := netip.MustParseAddr("10.8.3.21")
	d.Change.Put.Peers = []model.Peer{{Addr: addr, Identity: 1}}
	d.Change.Remove.Peers = []netip.Addr{addr}
	_, _, err := new(Assembler).Add(parts(t, d)[0])
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "a peer stands there twice") {
		t.Errorf("got %v", err)
	}
}

// What a pod that joins a known identity costs on the wire, its cause included.
//
// Policy row 8: a pod that joins a known identity is one row, where it is needed.
func TestDeltaOfOnePeerIsSmall(t *testing.T) {
	const budget = 200
	d := aDelta()
	d.Change.Put.Peers = []model.Peer{{Addr: netip.MustParseAddr("10.8.3.21"), Identity: 431}}
	messages, err := EncodeDelta(d, schemas.MaxMessageBytes)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	if n := len(messages[0]); n > budget {
		t.Errorf("%d bytes, more than %d", n, budget)
	}
}
