// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// conversation is a client's outside with a Service, by packets that are run.
type conversation struct {
	t                        *testing.T
	d                        *Dataplane
	protocol                 model.Protocol
	client, service, backend string // backend is where the Service's packets go, its own address
	masqueraded              string // what the backend sees of a client that is masqueraded
}

const (
	clientSequence  = 1 // of frame
	backendSequence = 7000
)

// segment is frame with numbers.
func segment(t *testing.T, from, to, flags string, sequence, acknowledged uint32, payload int) []byte {
	t.Helper()
	b := frame(t, model.TCP, from, to, flags, payload)
	tcp := b[14+20:]
	if b[12] == 0x86 {
		tcp = b[14+40:]
	}
	binary.BigEndian.PutUint32(tcp[4:], sequence)
	binary.BigEndian.PutUint32(tcp[8:], acknowledged)
	return b
}

// fromClient has the client say something. What becomes of it is the verdict.
func (c *conversation) fromClient(flags string, sequence, acknowledged uint32) Verdict {
	c.t.Helper()
	verdict, _, err := c.d.RunFromUplink(segment(c.t, c.client, c.service, flags, sequence, acknowledged, 0), 0)
	check(c.t, err)
	if verdict == Pass && c.masqueraded != "" {
		verdict, _, err = c.d.RunToUplink(segment(c.t, c.client, c.backend, flags, sequence, acknowledged, 0), 0)
		check(c.t, err)
	}
	return verdict
}

// fromBackend has the backend say something, and checks that the Service does.
func (c *conversation) fromBackend(flags string, sequence, acknowledged uint32) {
	c.t.Helper()
	if c.masqueraded != "" {
		verdict, _, err := c.d.RunFromUplink(segment(c.t, c.backend, c.masqueraded, flags, sequence, acknowledged, 0), 0)
		if err != nil || verdict != Pass {
			c.t.Fatalf("the backend's %s: %v, %v", flags, verdict, err)
		}
	}
	verdict, out, err := c.d.RunToUplink(segment(c.t, c.backend, c.client, flags, sequence, acknowledged, 0), 0)
	check(c.t, err)
	if from := source(out); verdict != Pass || from != c.service {
		c.t.Fatalf("the backend's %s is %v, from %s, want it from %s", flags, verdict, from, c.service)
	}
}

// source returns where a frame of TCP or UDP says that it is from.
func source(frame []byte) string {
	ip, ports := frame[26:30], frame[34:36]
	if frame[12] == 0x86 {
		ip, ports = frame[22:38], frame[54:56]
	}
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(ports)).String()
}

// isHalfOpen looks at the entry of the client's packets.
func (c *conversation) isHalfOpen() bool {
	c.t.Helper()
	return c.flow().HalfOpen != 0
}

func (c *conversation) wantHalfOpen(when string, want bool) {
	c.t.Helper()
	if got := c.isHalfOpen(); got != want {
		c.t.Errorf("%s: half open %v, want %v", when, got, want)
	}
}

// confirm begins a flow that is no longer half open.
func (c *conversation) confirm() {
	c.t.Helper()
	if c.protocol == model.UDP {
		c.ask()
		c.answer()
		c.ask()
		return
	}
	c.fromClient("S", clientSequence, 0)
	c.fromBackend("SA", backendSequence, clientSequence+1)
	if v := c.fromClient("A", clientSequence+1, backendSequence+1); v != Pass {
		c.t.Fatalf("ACK: %v", v)
	}
}

// ask has the client send a datagram, which reaches the backend.
func (c *conversation) ask() {
	c.t.Helper()
	c.through(c.d.RunFromUplink, c.client, c.service, c.client)
	if c.masqueraded != "" {
		c.through(c.d.RunToUplink, c.client, c.backend, c.masqueraded)
	}
}

// answer has the backend send one, which comes from the Service.
func (c *conversation) answer() {
	c.t.Helper()
	if c.masqueraded != "" {
		c.through(c.d.RunFromUplink, c.backend, c.masqueraded, c.backend)
	}
	c.through(c.d.RunToUplink, c.backend, c.client, c.service)
}

func (c *conversation) through(program func([]byte, int) (Verdict, []byte, error), from, to, wantFrom string) {
	c.t.Helper()
	verdict, out, err := program(frame(c.t, model.UDP, from, to, "", 9), 0)
	if err != nil || verdict != Pass || source(out) != wantFrom {
		c.t.Fatalf("%s → %s: %v from %s, %v; want it from %s", from, to, verdict, source(out), err, wantFrom)
	}
}

// dial is a client's first conversation with a node, masqueraded or not.
func dial(t *testing.T, masqueraded bool, protocol model.Protocol) *conversation {
	t.Helper()
	d, err := Load(Options{Capacities: small, Flows: 4096})
	check(t, err)
	t.Cleanup(d.Close)
	putServices(t, d)
	node := netip.MustParseAddr("192.0.2.1")
	check(t, d.SetUplinks(map[int]abi.Uplink{1: {V4: node.As16()}}))
	outside := ""
	if masqueraded {
		outside = netip.AddrPortFrom(node, 4000).String()
	}
	return &conversation{t, d, protocol, "198.51.100.7:4000", "10.96.0.1:80", "10.1.0.1:8080", outside}
}

// sweepLater sweeps as if so many seconds had passed.
func (c *conversation) sweepLater(t *testing.T, seconds uint32) Swept {
	t.Helper()
	now, err := NowSeconds()
	check(t, err)
	swept, err := c.d.Sweep(t.Context(), DefaultTimeouts, now+seconds)
	check(t, err)
	return swept
}

// Trap 15: a client's flow may be ended by others' until the client has acknowledged the backend's own number.
func TestFlowIsHalfOpenUntilItsClientHasSeenTheAnswer(t *testing.T) {
	testkit.NeedKernel(t)
	for _, masqueraded := range []bool{false, true} {
		c := dial(t, masqueraded, model.TCP)
		for range 2 { // the second is sent again
			c.fromClient("S", clientSequence, 0)
			c.wantHalfOpen("after the SYN", true)
		}
		for _, guess := range []uint32{0, 1, clientSequence + 1, backendSequence + 1} {
			c.fromClient("A", clientSequence+1, guess)
			c.wantHalfOpen("after an acknowledgment before the answer", true)
		}
		for range 2 {
			c.fromBackend("SA", backendSequence, clientSequence+1)
			c.wantHalfOpen("after the answer", true)
		}
		for _, guess := range []uint32{0, backendSequence, backendSequence + 1 + 1<<17, clientSequence + 1} {
			c.fromClient("A", clientSequence+1, guess)
			c.wantHalfOpen(fmt.Sprintf("after %d, which the backend never sent", guess), true)
		}
		c.fromClient("A", clientSequence+1, backendSequence+1)
		c.wantHalfOpen("after the handshake", false)
		c.fromClient("FA", clientSequence+1, backendSequence+1)
		c.fromBackend("FA", backendSequence+1, clientSequence+2)
		c.fromClient("S", clientSequence+9, 0)
		c.wantHalfOpen("with the port used again", true)
	}
}

// TestBackendThatTakesDataOfASYN: by TCP Fast Open the backend sends before the client's first acknowledgment.
func TestBackendThatTakesDataOfASYN(t *testing.T) {
	testkit.NeedKernel(t)
	c := dial(t, false, model.TCP)
	c.fromClient("S", clientSequence, 0)
	c.fromBackend("SA", backendSequence, clientSequence+1+100)
	c.fromBackend("A", backendSequence+1, clientSequence+1+100)
	c.fromClient("A", clientSequence+101, backendSequence+1+1400)
	c.wantHalfOpen("after the client has taken data", false)
}

func TestDatagramsAreHalfOpenUntilTheClientComesAgain(t *testing.T) {
	testkit.NeedKernel(t)
	for _, masqueraded := range []bool{false, true} {
		c := dial(t, masqueraded, model.UDP)
		c.ask()
		c.ask()
		c.wantHalfOpen("unanswered", true)
		c.answer()
		c.wantHalfOpen("answered, and the client silent", true)
		c.ask()
		c.wantHalfOpen("after the client came again", false)
		c.answer()
	}
}

// TestSteeredFlowIsHalfOpenUntilTheClientGoesOn: at the first node, where answers may not come by.
func TestSteeredFlowIsHalfOpenUntilTheClientGoesOn(t *testing.T) {
	testkit.NeedKernel(t)
	c := dialSteered(t)
	c.fromClient("S", clientSequence, 0)
	c.wantHalfOpen("after the SYN", true)
	c.fromClient("A", clientSequence+1, backendSequence+1)
	c.wantHalfOpen("after an acknowledgment", false)
}

// Trap 13: what is half open is forgotten after 60 s, answered or not.
func TestHalfOpenFlowsExpire(t *testing.T) {
	testkit.NeedKernel(t)
	c := dial(t, true, model.TCP)
	c.fromClient("S", clientSequence, 0)
	c.fromBackend("SA", backendSequence, clientSequence+1)
	for _, at := range []struct{ after, deleted uint32 }{{30, 0}, {70, 4}} {
		swept := c.sweepLater(t, at.after)
		if swept.HalfOpen != 1 || swept.Flows != 4 || swept.FlowsDeleted != int(at.deleted) {
			t.Errorf("after %d s: %+v, want %d deleted", at.after, swept, at.deleted)
		}
	}
}

// TestFloodEndsNoFlowThatLives runs many more SYNs than there are places, a client each.
//
// Trap 16: what a flood ends is half open, and of the flows that live none, though nothing reads them meanwhile.
func TestFloodEndsNoFlowThatLives(t *testing.T) {
	testkit.NeedKernel(t)
	c := dial(t, true, model.TCP)
	const clients = 100
	client := func(i int) *conversation {
		one := *c
		port := 4000 + i
		one.client, one.masqueraded = fmt.Sprintf("198.51.100.7:%d", port), fmt.Sprintf("192.0.2.1:%d", port)
		return &one
	}
	for i := range clients {
		client(i).confirm()
	}
	b := segment(t, "203.0.113.0:1", c.service, "S", 1, 0, 0)
	for i := range uint32(20000) {
		binary.BigEndian.PutUint32(b[26:], 0xcb007100+i) // no program checks the sums
		_, _, err := c.d.RunFromUplink(b, 0)
		check(t, err)
	}
	places := int(halfOpenPlaces(c.d.options))
	entries, err := countEntries(c.d.maps[flowsMap])
	if most := 4*clients + 4*places; err != nil || entries > most || entries < 4*clients+places {
		t.Errorf("after the flood: %d entries, %v; want at most %d with %d places", entries, err, most, places)
	}
	for i := range clients {
		one := client(i)
		one.wantHalfOpen("after the flood", false)
		one.fromBackend("A", backendSequence+1, clientSequence+1)
		if v := one.fromClient("A", clientSequence+1, backendSequence+1); v != Pass {
			t.Errorf("client %d after the flood: %v", i, v)
		}
	}
}

// TestResizedWhileHalfOpen gives the table another size, and with it the places, amid a handshake.
func TestResizedWhileHalfOpen(t *testing.T) {
	testkit.NeedKernel(t)
	pins := filepath.Join(testkit.BPFFS(t), "node")
	c := &conversation{t: t, protocol: model.TCP, client: "198.51.100.7:4000", service: "10.96.0.1:80", backend: "10.1.0.1:8080"}
	for _, size := range []uint32{2048, 8192} {
		d, err := Load(Options{PinDir: pins, Capacities: small, Flows: size})
		check(t, err)
		t.Cleanup(d.Close)
		if got := d.maps[halfOpenMap].MaxEntries(); got != size/16 {
			t.Errorf("%d places for %d entries", got, size)
		}
		if c.d == nil {
			putServices(t, d)
			c.d = d
			c.fromClient("S", clientSequence, 0)
			d.Close()
		}
		c.d = d
	}
	c.fromBackend("SA", backendSequence, clientSequence+1)
	c.fromClient("A", clientSequence+1, backendSequence+1)
	c.wantHalfOpen("after the handshake", false)
}
