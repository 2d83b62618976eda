// SPDX-License-Identifier: Apache-2.0

package carry_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// judged is pods, each isolated but for peers of some identities, so that its rule set takes one verdict more than those.
func judged(allowed ...int) *model.Tables {
	t := model.NewTables()
	t.Selves[model.SelfKey{}] = model.Self{Policed: true}
	for i, n := range allowed {
		id := model.RuleSetID(1000*(i+1) + n)
		name := fmt.Sprintf("web-%d", i)
		t.RuleSets[id] = model.RuleSet{ID: id, Direction: model.Ingress, Policies: "NetworkPolicy shop/" + name}
		addr := netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
		t.Endpoints[addr] = model.Endpoint{Addr: addr, Pod: "shop/" + name, Incarnation: 1, Ingress: id}
		for identity := range n + 1 {
			key := model.VerdictKey{RuleSet: id, Identity: model.IdentityID(identity)}
			v := model.Verdict{VerdictKey: key, Action: model.ActionAllow}
			if identity == 0 {
				v.Action = model.ActionIsolate
			} else {
				peer := netip.AddrFrom4([4]byte{10, 2, 0, byte(identity)})
				t.Peers.Put(model.Peer{Addr: peer, Identity: key.Identity})
			}
			t.Verdicts[key] = v
		}
	}
	return t
}

// closedPods are those that a rule set without verdicts judges.
func (n *node) closedPods() (pods []string) {
	rows := n.load().Tables(model.LayerNode)
	for i := range len(rows.Endpoints) {
		e := rows.Endpoints[netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})]
		if _, decides := rows.Verdicts[model.VerdictKey{RuleSet: e.Ingress}]; !decides {
			pods = append(pods, e.Pod)
		}
	}
	return pods
}

// agrees checks that node and compiler agree on where the node is.
func (n *node) agrees() {
	n.t.Helper()
	n.react(n.driver.Finish())
	for l, at := range n.compiler.at {
		if got := n.driver.Core.Positions()[l]; got != at {
			n.t.Errorf("layer %s: the node says it is at %v, want %v", l, got, at)
		}
	}
}

// Policy row 9: a policy that doesn't fit closes its own pods alone, is named with them, and comes into force once there is
// room, be it that another policy goes or that the map grows.
func TestAPolicyThatDoesntFitClosesItsPodsAlone(t *testing.T) {
	const room = 12
	m := maps.NewMemory([abi.MapCount]uint32{abi.Verdicts: room})
	n, c := settled(t, m, plan.Capacities{abi.Verdicts: room})
	own := model.NodeLayer("a")
	n.put(c.commit(own, judged(4, 2), n.now))
	n.converged()
	n.put(c.commit(own, judged(4, 2, 6, 1), n.now))
	n.put(c.commit(model.ClusterLayer, shop(4, 4, 1), n.now))
	n.pass(2 * time.Second)
	n.agrees()
	if got := fmt.Sprint(n.closedPods()); got != "[shop/web-2]" {
		t.Errorf("closed are %s, want shop/web-2 alone", got)
	}
	if diff := model.Diff(c.layers[model.ClusterLayer], n.load().Tables(model.LayerCluster)); !diff.Empty() {
		t.Error("a change of Services was not applied")
	}
	want := "there is no room for 1 rule sets of NetworkPolicy shop/web-2: nothing passes pods shop/web-2 (ingress) until there is, " +
		"everything else is in force; map verdicts_v1 has room for 12 entries of 17: give it more room"
	faults := n.lastReport().Faults
	if len(faults) != 1 || faults[0].Kind != "capacity" || !strings.HasPrefix(faults[0].Text, want) {
		t.Errorf("faults %+v\nwant %s", faults, want)
	}

	writes := m.Writes()
	n.pass(time.Minute)
	n = start(t, c, m, plan.Capacities{abi.Verdicts: room})
	n.pass(5 * time.Second)
	n.agrees()
	if m.Writes() != writes || len(n.lastReport().Faults) != 1 {
		t.Errorf("a minute and a restart made %d writes; faults %+v", m.Writes()-writes, n.lastReport().Faults)
	}

	n.put(c.commit(own, judged(1, 1, 5, 1), n.now)) // edits that make room
	n.pass(2 * time.Second)
	n.converged()
	if faults := n.lastReport().Faults; len(faults) != 0 || !n.saw("repaired") {
		t.Errorf("with room for all: %+v", faults)
	}

	n.put(c.commit(own, judged(4, 2, 6, 1), n.now))
	if len(n.closedPods()) != 1 {
		t.Errorf("closed are %v, want one", n.closedPods())
	}
	larger := maps.NewMemory([abi.MapCount]uint32{})
	copyMaps(t, n, larger)
	n = start(t, c, larger)
	n.pass(5 * time.Second)
	n.converged()
	if faults := n.lastReport().Faults; len(faults) != 0 {
		t.Errorf("after the map has grown: %+v", faults)
	}
}

// copyMaps moves what a node's maps hold into others.
func copyMaps(t *testing.T, n *node, to maps.Maps) {
	t.Helper()
	n.react(n.driver.Finish())
	for which := range abi.MapCount {
		err := maps.Dump(n.maps, which, func(key, value []byte) error {
			return to.Write([]maps.Write{{Map: which, Key: append([]byte{}, key...), Value: append([]byte{}, value...)}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for kind := range model.LayerNode + 1 {
		if kind == 0 {
			continue
		}
		p, err := n.maps.Position(kind)
		if err == nil {
			err = to.SetPosition(kind, p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Policy row 9: an edit of a policy in a map that has no room for old and new rows at once closes the pod in between, and
// ends with the new rows.
func TestAnEditThatFitsOnlyOnceTheOldRowsAreGone(t *testing.T) {
	const room = 12
	m := maps.NewMemory([abi.MapCount]uint32{abi.Verdicts: room})
	n, c := settled(t, m, plan.Capacities{abi.Verdicts: room})
	for _, allowed := range [][]int{{3, 6}, {3, 7}, {3, 5}, {9}, {1, 8}} {
		n.put(c.commit(model.NodeLayer("a"), judged(allowed...), n.now))
		n.pass(2 * time.Second)
		n.converged()
		if faults := n.lastReport().Faults; len(faults) != 0 {
			t.Errorf("%v: %+v", allowed, faults)
		}
	}
	if s := n.driver.Core.Stats(); s.MapFailures > 0 || s.Refused > 0 {
		t.Errorf("%+v", s)
	}
}
