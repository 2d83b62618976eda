// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// A region is nodes with pods, among which the network hands clients' packets out as it likes, and as it likes moves a
// client to another node. Each node has the rows of the cluster, some later than others.
type region struct {
	*world
	nodes  []*regionNode
	at     *regionNode // whose rows are compiled
	placed map[netip.Addr]model.NodeID
	known  map[model.NodeID]model.Node // the nodes' rows
	told   *lastSteps

	inFlight []flight // what is on its way to a hook
	arrived  []flight // what has come to a pod, a process of a node or a client: next it is answered
	recent   []dialed
}

// regionNode is one node: its programs, and what the model remembers of it.
type regionNode struct {
	judge
	name   string
	number model.NodeID
	own    []netip.Addr // IPv4 and IPv6
	pods   []netip.Addr
	behind bool // hears of no changes at present
}

// regionSize is how many nodes a region has. The last one's kernel has no device that wraps.
const regionSize = 4

// The addresses of a region's nodes and pods, by the number of the node.
func regionAddrs(i int) (own, pods []netip.Addr) {
	return parseAddrs(fmt.Sprintf("172.20.0.%d", 2+i), fmt.Sprintf("fd00:20::%d", 2+i)),
		parseAddrs(fmt.Sprintf("10.244.%d.2", 1+i), fmt.Sprintf("10.244.%d.3", 1+i), fmt.Sprintf("fd00:%d::2", 1+i))
}

// newRegion loads the programs of a region's nodes.
func newRegion(t *testing.T) *region {
	t.Helper()
	r := &region{told: &lastSteps{}}
	for i := range regionSize {
		n := &regionNode{name: fmt.Sprintf("node-%d", i+1)}
		n.number = model.NodeIDOf(n.name)
		n.own, n.pods = regionAddrs(i)
		kernel := newKernelNode(t, bpf.Options{Node: n.number, Tunnel: bpf.Tunnel{VNI: regionVNI, Port: 8475}})
		around := refmodel.Surroundings{
			Locals:  map[netip.Addr]refmodel.LocalFlags{n.own[0]: refmodel.LocalNodePort, n.own[1]: refmodel.LocalNodePort},
			Uplinks: map[int][]netip.Addr{refmodel.UplinkAny: n.own, uplinkA: n.own},
			Number:  n.number, Tunnel: i < regionSize-1, MaglevSize: maglev.DefaultSize,
			TunnelPort: 8475, TunnelVNI: regionVNI,
		}
		check(t, kernel.Surround(around))
		if around.Tunnel {
			check(t, kernel.TellTunnel(uplinkA))
		}
		kernel.around = around
		n.judge = judge{t: t, kernel: kernel, told: r.told}
		r.nodes = append(r.nodes, n)
	}
	return r
}

// begin forgets all that was, and makes the region anew.
func (r *region) begin(choose func(int) int, total tally) error {
	w := newWorld(choose)
	w.region, r.at = r, r.nodes[0]
	r.world, r.placed, r.known = w, map[netip.Addr]model.NodeID{}, map[model.NodeID]model.Node{}
	r.inFlight, r.arrived, r.recent = nil, nil, nil
	w.servers = nil
	for _, n := range r.nodes {
		if err := n.kernel.Reset(); err != nil {
			return err
		}
		n.tally, n.flows, n.fragments, n.past, n.behind = total, n.kernel.memory(), refmodel.NewFragments(), 0, false
		w.servers = append(w.servers, n.pods[1:]...)
		r.known[n.number] = model.Node{ID: n.number, V4: n.own[0], V6: n.own[1]}
		for _, a := range slices.Concat(n.pods, n.own) {
			r.placed[a] = n.number
		}
	}
	w.servers = append(w.servers, r.nodes[1].own...)
	if choose(4) == 0 { // of whom nobody says where they are
		w.servers = append(w.servers, parseAddrs("192.0.2.99", "2001:db8::99")...)
	}
	r.told.lines = nil
	return nil
}

// change changes something, of which some nodes hear at once.
func (r *region) change() error {
	first := len(r.services) == 0
	switch n := r.choose(8); {
	case first || n > 3:
		r.world.change()
	case n == 0: // the row of a node goes, as where two share a number, or comes back; or has one family
		i := r.choose(len(r.nodes))
		own := r.nodes[i].own
		row := one(r.world, []model.Node{{V4: own[0], V6: own[1]}, {V4: own[0], V6: own[1]}, {V4: own[0]}, {V6: own[1]}, {}})
		row.ID = r.nodes[i].number
		r.known[row.ID] = row
		r.changed = fmt.Sprintf("%s is %s", r.nodes[i].name, row.Text())
		if !row.V4.IsValid() && !row.V6.IsValid() {
			delete(r.known, row.ID)
			r.changed = r.nodes[i].name + " has no row"
		}
	case n == 1 && r.choose(2) == 0: // nobody says where a backend is, or somebody does again
		i := r.choose(len(r.nodes))
		server := one(r.world, r.nodes[i].pods[1:])
		if r.placed[server] = r.nodes[i].number; r.choose(4) == 0 {
			r.placed[server] = 0
		}
		r.changed = fmt.Sprintf("%s is on node %d", server, r.placed[server])
	default:
		n := one(r.world, r.nodes)
		n.behind = !n.behind && r.choose(2) == 0
		r.changed = fmt.Sprintf("%s is behind: %t", n.name, n.behind)
	}
	r.told.add("the tables change: %s", r.changed)
	for _, n := range r.nodes {
		if n.behind && !first {
			continue
		}
		r.at, r.here = n, n.pods
		r.world.compile()
		if err := errors.Join(n.kernel.Set(model.LayerCluster, r.cluster), n.kernel.Set(model.LayerNode, r.node)); err != nil {
			return err
		}
		n.node = r.model(n.kernel.around)
	}
	return nil
}

// compile adds the rows of nodes.
func (r *region) compile(cluster *model.Tables) {
	maps.Copy(cluster.Nodes, r.known)
	for _, text := range []string{"fd00:3::/64", "fd00:4::/64"} {
		p := netip.MustParsePrefix(text)
		cluster.Networks[p] = model.Network{Prefix: p, Kind: model.NetworkPods}
	}
}

// run runs one region up to the first disagreement.
func (r *region) run(choose func(int) int, more func() bool, total tally) error {
	if err := r.begin(choose, total); err != nil {
		return err
	}
	err := r.steps(more)
	if errors.Is(err, errSecondPassed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w\nthe tables:\n%s\nthe last steps:\n%s", err, r.world, r.told)
	}
	return nil
}

func (r *region) steps(more func() bool) error {
	for first := true; more(); first = false {
		var err error
		switch n := r.choose(30); {
		case first || n < 2:
			err = r.change()
		case n == 2:
			seconds := one(r.world, []uint32{1, 1, 9, 100})
			for _, n := range r.nodes {
				err = errors.Join(err, n.passTime(seconds))
			}
		default:
			err = r.packet(r.next())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// kindsInRegion are what a run must have seen.
var kindsInRegion = []string{
	"wrapped", "unwrapped", "answer wrapped", "answer sent on", "answered directly", "masqueraded there", "steered amid a connection",
	"refused", "refused back", "dropped as foreign", "dropped as stale", "without a way", "moved",
}

// TestNodesAgreeWithTheModel sends random packets of clients outside through the programs of several nodes, which wrap them
// for each other, over random tables that change in between and reach some nodes late, and lets the reference model judge
// what each node makes of each. The network moves clients from one node to another.
//
// Row 14: whatever the tables are, a client's address reaches a backend on another node wherever the model says that it may.
// Row 15: and a backend's node answers the client itself where the Service asks for that.
// Trap 37: what others send in the nodes' name, or in another network, is dropped.
func TestNodesAgreeWithTheModel(t *testing.T) {
	testkit.NeedKernel(t)
	seed := anySeed(t)
	ns := routed(t)
	ns.Do(t, func() {
		total, r := tally{}, newRegion(t)
		for i := range max(1, *runsFlag/8) {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			steps := *stepsFlag
			var made []int
			choose := func(n int) int { made = append(made, rng.IntN(n)); return made[len(made)-1] }
			more := func() bool { steps--; return steps >= 0 }
			if err := r.run(choose, more, total); err != nil {
				err = shrink(made, err, func(choices []int) error {
					return r.run(chooseFrom(&choices), func() bool { return len(choices) > 0 }, tally{})
				})
				t.Fatalf("region %d of seed %d: %v", i, seed, err)
			}
		}
		var words []string
		for _, kind := range kindsInRegion {
			words = append(words, fmt.Sprintf("%d × %s", total[kind], kind))
			if total[kind] == 0 {
				t.Errorf("the regions are too tame, nothing was %s", kind)
			}
		}
		t.Log(strings.Join(words, ", "))
	})
}

// routed is a network namespace that has a way to everybody, which answers to clients are looked up by.
func routed(t *testing.T) *testkit.NetNS {
	t.Helper()
	ns, world := testkit.NewNetNS(t), testkit.NewNetNS(t)
	prefixes := []netip.Prefix{netip.MustParsePrefix("172.31.0.1/24"), netip.MustParsePrefix("fd00:31::1/64")}
	testkit.Veth(t, ns, "uplink", prefixes, world, "world", nil)
	ns.Sysctl(t, "net/ipv4/ip_forward", "1")
	ns.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	ns.Route(t, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("172.31.0.2"), "uplink")
	ns.Route(t, netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd00:31::2"), "uplink")
	return ns
}

// chooseFrom takes choices in order, and 0 after the last.
func chooseFrom[C byte | int](choices *[]C) func(int) int {
	return func(n int) int {
		if len(*choices) == 0 {
			return 0
		}
		c := int((*choices)[0]) % n
		*choices = (*choices)[1:]
		return c
	}
}
