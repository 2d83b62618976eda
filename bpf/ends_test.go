// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// dialSteered is a conversation with a Service whose backend is on another node, with the mode's rows.
func dialSteered(t *testing.T) *conversation {
	t.Helper()
	d, err := Load(Options{Capacities: small, Flows: 1024, Node: 1, Tunnel: Tunnel{VNI: 7}})
	check(t, err)
	t.Cleanup(d.Close)
	c := &conversation{t: t, d: d, protocol: model.TCP, client: "198.51.100.7:4000", service: "10.96.0.1:80"}
	putServices(t, d)
	c.placeBackend(2)
	check(t, d.TellTunnel(9))
	return c
}

// placeBackend says on which node the backend is; the node's own number is 1.
func (c *conversation) placeBackend(node uint32) {
	c.t.Helper()
	putForwarded(c.t, c.d, c.service, "10.1.0.1:8080", node, model.ForwardTunnel)
}

// key is that of the client's packets.
func (c *conversation) key() abi.Tuple {
	from, to := netip.MustParseAddrPort(c.client), netip.MustParseAddrPort(c.service)
	return abi.Tuple{
		Source: from.Addr().As16(), SourcePort: abi.Port(from.Port()),
		Destination: to.Addr().As16(), DestinationPort: abi.Port(to.Port()), Protocol: uint8(c.protocol),
	}
}

// flow is the entry of the client's packets.
func (c *conversation) flow() abi.Flow {
	c.t.Helper()
	flow, found, err := c.d.Flow(c.key())
	if err != nil || !found {
		c.t.Fatalf("the flow of %s: found %v, %v", c.client, found, err)
	}
	return flow
}

// numbers stand in place of Ethernet addresses in what a node wraps for a backend.
func numbers(backend, node byte) []byte {
	return []byte{0x02, 0xde, 0, 0, 0, backend, 0x02, 0xde, 0, 0, 0, node}
}

const ended = abi.FlowFIN | abi.FlowReset

// Trap 13: a FIN or RST from who knows the addresses and ports alone ends nothing; the client's own is noted.
func TestForgedEndsAreNotNoted(t *testing.T) {
	testkit.NeedKernel(t)
	const window = 1 << 24
	for _, c := range []struct {
		*conversation
		begin func(*conversation)
	}{
		{dial(t, false, model.TCP), (*conversation).confirm},
		{dialSteered(t), func(c *conversation) {
			c.fromClient("S", clientSequence, 0)
			c.fromClient("A", clientSequence+1, backendSequence+1)
			c.fromClient("A", clientSequence+1000, backendSequence+1) // data, which moves the client on
		}},
	} {
		c.begin(c.conversation)
		for _, flags := range []string{"F", "FA", "R", "RA"} {
			for _, guess := range []uint32{clientSequence + 1 + 2*window, 1 << 31, 1<<32 - 2*window} {
				c.fromClient(flags, guess, backendSequence+1)
				if state := c.flow().State; state&ended != 0 {
					t.Errorf("%s with sequence %d: state %d", flags, guess, state)
				}
			}
		}
		c.fromClient("S", 1<<30, 0) // nor does a SYN after them
		if c.flow().Sequence == 1<<30 {
			t.Error("a forged SYN began the connection anew")
		}
		c.fromClient("R", clientSequence+1000, 0)
		if c.flow().State&ended != abi.FlowReset {
			t.Error("the client's own RST isn't noted")
		}
		c.fromClient("FA", clientSequence+1001, backendSequence+1)
		if c.flow().State&abi.FlowFIN == 0 {
			t.Error("the client's own FIN isn't noted")
		}
	}
}

// Trap 13: where a client's packets go wrapped its RST counts wherever it has got to.
func TestSteeredFlowKnowsWhereItsClientIs(t *testing.T) {
	testkit.NeedKernel(t)
	c := dialSteered(t)
	c.fromClient("S", clientSequence, 0)
	sequence := uint32(clientSequence)
	for range 600 { // more than 4 GiB
		sequence += 1<<23 + 1
		c.fromClient("A", sequence, backendSequence+1)
	}
	c.fromClient("R", sequence, 0)
	if c.flow().State&abi.FlowReset == 0 {
		t.Error("the client's RST isn't noted")
	}
}

// Trap 42: the address of a backend moves to another node, and its connections' packets go there; to this one they can't.
func TestSteeredFlowFollowsItsBackend(t *testing.T) {
	testkit.NeedKernel(t)
	c := dialSteered(t)
	check(t, c.d.Map(abi.Nodes).Put(abi.Encode(uint32(3)), abi.Encode(abi.Node{V4: netip.MustParseAddr("192.0.2.3").As16()})))
	c.fromClient("S", clientSequence, 0)
	for _, at := range []struct{ placed, node uint32 }{{2, 2}, {3, 3}, {0, 3}, {2, 2}} { // 0: nobody says where
		c.placeBackend(at.placed)
		check(t, c.d.PassTime(1))
		c.fromClient("A", clientSequence+1, backendSequence+1)
		if node := c.flow().Node; node != at.node {
			t.Errorf("backend on node %d: the flow leads to node %d, want %d", at.placed, node, at.node)
		}
	}
	c.placeBackend(1)
	check(t, c.d.PassTime(1))
	verdict := c.fromClient("A", clientSequence+1, backendSequence+1)
	if _, found, err := c.d.Flow(c.key()); verdict != Refuse || found || err != nil {
		t.Errorf("backend on this node: %v, flow %v, %v; want the client refused", verdict, found, err)
	}
}

// Row 14: a RST is the first that comes to a node of a connection that it could pass on: it does, and remembers nothing.
func TestResetOfAnUnknownConnectionGoesOn(t *testing.T) {
	testkit.NeedKernel(t)
	c := dialSteered(t)
	_, out, err := c.d.RunFromUplink(segment(t, c.client, c.service, "R", clientSequence+1, 0, 0), 0)
	if want := numbers(1, 1); err != nil || !bytes.Equal(out[:12], want) {
		t.Errorf("%x, %v; want it wrapped: %x", out[:12], err, want)
	}
	if _, found, err := c.d.Flow(c.key()); found || err != nil {
		t.Errorf("a flow began: %v, %v", found, err)
	}
	c.placeBackend(1)
	if verdict := c.fromClient("R", clientSequence+1, 0); verdict != Drop {
		t.Errorf("for a backend here: %v, want it dropped", verdict)
	}
}

// TestNodesMoveNoPodsFlow: a node that wraps what a pod of this one has sent, or seems to.
func TestNodesMoveNoPodsFlow(t *testing.T) {
	testkit.NeedKernel(t)
	c := dialSteered(t)
	c.client = "10.1.0.9:4000"
	pods := abi.Encode(abi.NetworkKey{Bits: 96 + 16, Addr: netip.MustParseAddr("10.1.0.0").As16()})
	check(t, c.d.Map(abi.Networks).Put(pods, abi.Encode(abi.Network{Kind: uint8(model.NetworkPods)})))
	c.placeBackend(1)
	from := segment(t, c.client, c.service, "S", clientSequence, 0, 0)
	_, _, err := c.d.RunFromPod(from, 0)
	check(t, err)
	unwrapping, err := c.d.Unwrapping()
	check(t, err)
	defer unwrapping.Close()
	copy(from, numbers(1, 2))
	comes := func(want uint8) {
		t.Helper()
		verdict, _, err := unwrapping.Run(from, Outer{netip.MustParseAddr("192.0.2.2"), 7}, 1)
		if way := c.flow().Way; err != nil || verdict != Pass || way != want {
			t.Errorf("%v, %v; way %d, want %d", verdict, err, way, want)
		}
	}
	comes(abi.WayHere)
	check(t, c.d.Map(abi.Networks).Delete(pods))
	comes(abi.WayVia) // the same of a client outside
}
