// SPDX-License-Identifier: Apache-2.0

// Package kernelnode is one node's BPF programs and maps without a pipeline around them: rows go in by the
// programmer's own plan, packets go through by BPF_PROG_TEST_RUN. The explainer and the differential tests use it.
//
// It promises to attach nothing, pin nothing and send nothing: what it makes ends with Close.
package kernelnode

import (
	"cmp"
	"errors"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/services/programmer/maps"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// Node is loaded programs and their maps. Its methods may be called by one goroutine at a time.
type Node struct {
	plane *bpf.Dataplane
	maps  *maps.Kernel
	state *plan.State
	limit plan.Capacities
	drops *bpf.TakenDrops // nil until asked for
	// unwrapping is nil until something comes unwrapped.
	unwrapping *bpf.Unwrapping
	// policed says whether the last rows of a layer say that there are policies.
	policed map[model.LayerKind]bool
}

// The entries of the tables of connections: room for what a test run sends, and for what one question does, which makes
// Forget quick.
const (
	flows    = 1 << 16
	fewFlows = 1 << 8
)

// maglevTables is how many there are, of 16 KiB: Services without one pick at random.
const maglevTables = 256

// refusalsPerSecond is more than can be asked, so that answers are never held back.
const refusalsPerSecond = 1_000_000_000

// New loads the programs with maps that have room for rows, twice over. masqueradeAll is fixed at load.
func New(rows int, masqueradeAll bool) (*Node, error) {
	return NewWith(rows, bpf.Options{MasqueradeAll: masqueradeAll})
}

// Small is NewWith with room for few connections.
func Small(rows int, options bpf.Options) (*Node, error) {
	options.Flows = fewFlows
	return NewWith(rows, options)
}

// NewWith is New with options of the caller's. It fills in what they leave out: tables, and room for connections.
func NewWith(rows int, options bpf.Options) (*Node, error) {
	capacity := max(1024, 2*rows)
	options.Capacities = map[abi.Map]uint32{}
	for m := range abi.MapCount {
		options.Capacities[m] = uint32(capacity)
	}
	options.Capacities[abi.Selves], options.Capacities[abi.MaglevIndex] = 1, maglevTables
	options.Flows = cmp.Or(options.Flows, flows)
	options.Affinities = cmp.Or(options.Affinities, options.Flows)
	options.Connections = cmp.Or(options.Connections, options.Flows)
	options.RefusalsPerSecond = refusalsPerSecond
	plane, err := bpf.Load(options)
	if err != nil {
		return nil, err
	}
	n, err := Over(plane, capacity)
	if err != nil {
		plane.Close()
	}
	return n, err
}

// Over is a Node of programs that the caller has loaded, with maps that have room for capacity entries each, and has
// perhaps attached. Nothing may be sent while Set runs: it doesn't wait for readers. The caller closes plane.
func Over(plane *bpf.Dataplane, capacity int) (*Node, error) {
	n := &Node{plane: plane, state: plan.Empty(), policed: map[model.LayerKind]bool{}}
	for m := range abi.MapCount {
		n.limit[m] = capacity
	}
	n.limit[abi.MaglevIndex] = int(plane.Map(abi.MaglevIndex).MaxEntries())
	var err error
	n.maps, err = maps.NewKernel(withGrace{plane})
	return n, err
}

// withGrace adds what package bpf has as a function.
type withGrace struct{ *bpf.Dataplane }

// Grace implements maps.Plane.
func (withGrace) Grace() error { return bpf.Grace() }

// Set takes the layer of a kind to rows, by writing what differs, in the programmer's order. If that changes what judges
// connections they are judged again.
func (n *Node) Set(kind model.LayerKind, rows *model.Tables) error {
	have := n.state.Wanted(kind)
	if have == nil {
		have = &model.Tables{}
	}
	change := model.Diff(have, rows)
	p, err := n.state.Apply(n.limit, plan.LayerChange{Kind: kind, Change: change})
	if err != nil {
		return fmt.Errorf("plan the maps: %w", err)
	}
	for _, phase := range p.Phases { // without graces: nothing is attached, so no program runs meanwhile
		for _, batch := range phase.Batches {
			if err := n.maps.Write(batch); err != nil {
				return fmt.Errorf("write the maps, phase %s: %w", phase.Name, err)
			}
		}
		if err := n.maps.Fill(phase.Tables); err != nil {
			return fmt.Errorf("write the maps, phase %s: %w", phase.Name, err)
		}
	}
	if kind == model.LayerCluster {
		if err := n.setServiceNetworks(rows); err != nil {
			return err
		}
	}
	return n.judge(kind, rows, change)
}

// judge has connections judged again, or no longer.
func (n *Node) judge(kind model.LayerKind, rows *model.Tables, change *model.Change) error {
	n.policed[kind] = rows.Selves[model.SelfKey{}].Policed
	if !judges(change) {
		return nil
	}
	return n.judgeAnew()
}

func (n *Node) judgeAnew() error {
	return n.plane.Judge(n.policed[model.LayerCluster] || n.policed[model.LayerNode])
}

// WithoutPolicies lets f run packets as if there were no policies. Connections are judged anew after it.
func (n *Node) WithoutPolicies(f func() error) error {
	if err := n.plane.Judge(false); err != nil {
		return err
	}
	return errors.Join(f(), n.judgeAnew())
}

// judges says whether a change is one of what judges connections.
func judges(c *model.Change) bool {
	return len(c.Put.Endpoints)+len(c.Put.Verdicts)+len(c.Put.PortVerdicts)+len(c.Put.Peers)+len(c.Put.Blocks)+len(c.Put.Selves) > 0 ||
		len(c.Remove.Endpoints)+len(c.Remove.Verdicts)+len(c.Remove.PortVerdicts)+len(c.Remove.Peers)+len(c.Remove.Blocks)+len(c.Remove.Selves) > 0
}

// Rows reads the rows of a layer back out of the maps.
func (n *Node) Rows(kind model.LayerKind) (*model.Tables, error) {
	state, err := plan.Load(func(m abi.Map, each func(key, value []byte) error) error { return maps.Dump(n.maps, m, each) })
	if err != nil {
		return nil, err
	}
	return state.Tables(kind), nil
}

// Surround tells the programs of the node's addresses. MasqueradeAll of s is as the programs were loaded.
func (n *Node) Surround(s refmodel.Surroundings) error {
	locals := map[netip.Addr]uint8{}
	for addr, flags := range s.Locals {
		locals[addr] = uint8(flags)
	}
	uplinks := map[int]abi.Uplink{}
	for ifindex, addrs := range s.Uplinks {
		var u abi.Uplink
		for _, addr := range addrs {
			if addr.Is4() {
				u.V4 = addr.As16()
			} else {
				u.V6 = addr.As16()
			}
		}
		uplinks[ifindex] = u
	}
	return errors.Join(n.plane.SetLocals(locals), n.plane.SetUplinks(uplinks))
}

// everywhere are prefixes that the programs are told of where there are more of Services than they take: they look up
// what is in one.
var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

func (n *Node) setServiceNetworks(rows *model.Tables) error {
	var prefixes []netip.Prefix
	for _, network := range rows.Networks {
		if network.Kind == model.NetworkServices {
			prefixes = append(prefixes, network.Prefix)
		}
	}
	if len(prefixes) > 16 {
		prefixes = everywhere
	}
	return n.plane.SetServiceNetworks(prefixes)
}

// DropCounts returns how many packets were dropped or refused, by reason.
func (n *Node) DropCounts() (map[model.DropReason]uint64, error) { return n.plane.DropCounts() }

// Drops returns what the programs have dropped or refused since it was asked last.
func (n *Node) Drops() ([]abi.DropEvent, error) {
	if n.drops == nil {
		drops, err := n.plane.TakeDrops()
		if err != nil {
			return nil, err
		}
		n.drops = drops
	}
	return n.drops.Take()
}

// RuleHits returns how many connections each rule has decided since New.
func (n *Node) RuleHits() (map[model.RuleID]uint64, error) { return n.plane.RuleHits() }

// FromUplink gives a frame to the program of what comes by an interface, by the index that the programs are to see: the
// caller's network namespace must have it.
func (n *Node) FromUplink(frame []byte, ifindex int) (bpf.Verdict, []byte, error) {
	return n.plane.RunFromUplink(frame, ifindex)
}

// ToUplink gives a frame to the program of what leaves by an interface.
func (n *Node) ToUplink(frame []byte, ifindex int) (bpf.Verdict, []byte, error) {
	return n.plane.RunToUplink(frame, ifindex)
}

// FromTunnel gives a frame to the program of what comes unwrapped from other nodes.
func (n *Node) FromTunnel(frame []byte, outer bpf.Outer, ifindex int) (bpf.Verdict, []byte, error) {
	if n.unwrapping == nil {
		var err error
		if n.unwrapping, err = n.plane.Unwrapping(); err != nil {
			return 0, nil, err
		}
	}
	return n.unwrapping.Run(frame, outer, ifindex)
}

// TellTunnel says by which device packets are wrapped for other nodes; 0 is none.
func (n *Node) TellTunnel(ifindex int) error { return n.plane.TellTunnel(ifindex) }

// Flow returns the entry of packets with these ends at a hook, if there is one.
func (n *Node) Flow(t abi.Tuple) (flow abi.Flow, found bool, err error) { return n.plane.Flow(t) }

// PassTime lets all flows and affinities be as many seconds older.
func (n *Node) PassTime(seconds uint32) error { return n.plane.PassTime(seconds) }

// FromPod gives a frame to the program of what pods send, and returns its verdict and what came out.
func (n *Node) FromPod(frame []byte) (bpf.Verdict, []byte, error) {
	return n.plane.RunFromPod(frame, 0)
}

// ToPod gives a frame to the program of what pods get, and returns its verdict and what came out.
func (n *Node) ToPod(frame []byte) (bpf.Verdict, []byte, error) { return n.plane.RunToPod(frame, 0) }

// Reset takes the node back to how New made it.
func (n *Node) Reset() error {
	for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
		if err := n.Set(kind, &model.Tables{}); err != nil {
			return err
		}
	}
	_, err := n.Drops()
	return errors.Join(n.plane.ForgetFlows(), n.forgetHits(), err)
}

func (n *Node) forgetHits() error {
	hits, err := n.plane.RuleHits()
	if err != nil {
		return err
	}
	return n.plane.ForgetHits(slices.Collect(stdmaps.Keys(hits)))
}

// Forget lets each next packet be the first of its client and flow.
func (n *Node) Forget() error { return n.plane.ForgetFlows() }

// Close ends the programs and the maps.
func (n *Node) Close() {
	if n.drops != nil {
		n.drops.Close()
	}
	if n.unwrapping != nil {
		n.unwrapping.Close()
	}
	n.plane.Close()
}
