// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// alike is one Service for clients outside, TCP, UDP and SCTP in both families, with a Maglev table each.
type alike struct {
	backends map[uint32]netip.AddrPort // by id, of IPv4; see inFamily
	affinity uint32
	slots    func(members []maglev.Member) []uint32 // of the tables; nil: as they should be
}

var alikeProtocols = []model.Protocol{model.TCP, model.UDP, model.SCTP}

// maglevSize is the slots of these tests' tables.
const maglevSize = 1021

func loadMaglev(t *testing.T, dir string, size uint32) *Dataplane {
	t.Helper()
	sizes := maps.Clone(small)
	sizes[abi.Backends], sizes[abi.Slots] = 8192, 8192
	d, err := Load(Options{PinDir: dir, Capacities: sizes, Flows: 8192, MaglevSize: size})
	check(t, err)
	t.Cleanup(d.Close)
	return d
}

// put writes the Service: the sets' backends are 10,000 ids apart.
func (a alike) put(t *testing.T, d *Dataplane) {
	t.Helper()
	for i := range len(alikeProtocols) * len(alikeFrontends) {
		p, frontend := alikeProtocols[i%len(alikeProtocols)], alikeFrontends[i/len(alikeProtocols)]
		set, byID, members := uint32(i+1), map[uint32]netip.AddrPort{}, []maglev.Member{}
		for id, at := range a.backends {
			id += 10_000 * uint32(i)
			byID[id] = inFamily(at, frontend)
			members = append(members, maglev.Member{ID: id, At: byID[id], Weight: 1})
		}
		testkit.Put(t, d, testkit.Service{Set: set, Protocol: p, Frontends: []netip.AddrPort{frontend}, Backends: byID})
		check(t, d.Map(abi.Sets).Put(set, abi.Encode(abi.BackendSet{
			Count: uint32(len(byID)), Protocol: uint8(p), Layer: uint8(model.LayerCluster), Flags: uint8(model.External), Affinity: a.affinity,
		})))
		table, wanted := d.MaglevTable(uint32(i)), maglev.Fill(maglevSize, members)
		if a.slots != nil {
			wanted = a.slots(members)
		}
		for slot, id := range wanted {
			atomic.StoreUint32(&table[slot], id)
		}
		check(t, d.Map(abi.MaglevIndex).Put(set, uint32(i)))
	}
}

// inFamily returns a backend as one of the family of a frontend.
func inFamily(backend, frontend netip.AddrPort) netip.AddrPort {
	if frontend.Addr().Is4() {
		return backend
	}
	b := netip.MustParseAddr("fd00:1::").As16()
	copy(b[12:], backend.Addr().AsSlice())
	return netip.AddrPortFrom(netip.AddrFrom16(b), backend.Port())
}

// backendOf returns where a packet went that came to the node.
func backendOf(t *testing.T, run func([]byte, int) (Verdict, []byte, error), protocol model.Protocol, client, service netip.AddrPort) netip.AddrPort {
	t.Helper()
	verdict, out, err := run(refmodel.FirstPacket(protocol, client, service), 0)
	check(t, err)
	if verdict != Pass {
		t.Fatalf("%s → %s: %v", client, service, verdict)
	}
	packet := gopacket.NewPacket(out, layers.LayerTypeEthernet, gopacket.Default)
	to, _ := netip.AddrFromSlice(packet.NetworkLayer().NetworkFlow().Dst().Raw())
	port := packet.TransportLayer().TransportFlow().Dst().Raw()
	return netip.AddrPortFrom(to, uint16(port[0])<<8|uint16(port[1]))
}

// anyone returns a client outside, its Service and how it dials.
func anyone(random *rand.Rand) (client, service netip.AddrPort, protocol model.Protocol) {
	client, service = netip.MustParseAddrPort("198.51.0.0:0"), alikeFrontends[0]
	if random.IntN(2) == 0 {
		client, service = netip.MustParseAddrPort("[2001:db8::]:0"), alikeFrontends[1]
	}
	b := client.Addr().AsSlice()
	b[len(b)-1], b[len(b)-2] = byte(random.Uint32()), byte(random.Uint32())
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(1+random.IntN(60000))), service, alikeProtocols[random.IntN(len(alikeProtocols))]
}

var alikeFrontends = ends("203.0.113.1:80", "[2001:db8:1::1]:80")

// some returns n backends with ids from first on.
func some(n int, first uint32) map[uint32]netip.AddrPort {
	backends := map[uint32]netip.AddrPort{}
	for i := range n {
		backends[first+uint32(i)] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 8080)
	}
	return backends
}

// TestHashesAreThoseOfPackageMaglev has a backend for each slot, so that where a packet goes tells its slot.
//
// Row 17: programs and tables agree about the slot of a packet, of both families, TCP, UDP and SCTP; with session affinity the client's address
// alone decides.
func TestHashesAreThoseOfPackageMaglev(t *testing.T) {
	testkit.NeedKernel(t)
	backends := some(maglevSize, 1)
	slots := func(members []maglev.Member) []uint32 {
		ids := make([]uint32, 0, len(members))
		for _, m := range members {
			ids = append(ids, m.ID)
		}
		slices.Sort(ids)
		return ids
	}
	for _, affinity := range []uint32{0, 60} {
		d := loadMaglev(t, "", maglevSize)
		alike{backends: backends, affinity: affinity, slots: slots}.put(t, d)
		random := rand.New(rand.NewPCG(1, 1))
		for range 500 {
			client, service, protocol := anyone(random)
			hash := maglev.Hash(client, service, uint8(protocol))
			if affinity > 0 {
				hash = maglev.HashClient(client.Addr())
			}
			want := inFamily(backends[1+maglev.SlotOf(hash, maglevSize)], service)
			if got := backendOf(t, d.RunFromUplink, protocol, client, service); got != want {
				t.Fatalf("%v %s → %s, affinity %d: %s, want %s", protocol, client, service, affinity, got, want)
			}
		}
	}
}

// Row 17: two nodes pick the same backend for the same packet from outside, also where ids and slots differ, and when a backend has gone.
func TestTwoNodesPickTheSameBackend(t *testing.T) {
	testkit.NeedKernel(t)
	const n = 20
	backends, others := some(n, 1), map[uint32]netip.AddrPort{}
	for id, at := range backends {
		others[100+(id*7)%n] = at
	}
	a, b := loadMaglev(t, "", maglevSize), loadMaglev(t, "", maglevSize)
	random := rand.New(rand.NewPCG(2, 2))
	for _, gone := range []netip.AddrPort{{}, backends[5]} {
		is := func(_ uint32, at netip.AddrPort) bool { return at == gone }
		maps.DeleteFunc(backends, is)
		maps.DeleteFunc(others, is)
		alike{backends: backends}.put(t, a)
		alike{backends: others}.put(t, b)
		hits := map[netip.AddrPort]int{}
		for range 400 {
			client, service, protocol := anyone(random)
			first := backendOf(t, a.RunFromUplink, protocol, client, service)
			if second := backendOf(t, b.RunFromUplink, protocol, client, service); first != second {
				t.Fatalf("%v %s → %s: %s on one node, %s on the other", protocol, client, service, first, second)
			}
			hits[first]++
		}
		if len(hits) != 2*len(backends) || hits[gone] > 0 {
			t.Errorf("%d backends are used, want %d a family: %v", len(hits), len(backends), hits)
		}
	}
}

// Row 17: clients in the cluster spread at random, also over a Service whose table has one backend alone; and so do those outside
// where there is no table, an empty one, or one that just went to another Service.
func TestWithoutATablePicksAreRandom(t *testing.T) {
	testkit.NeedKernel(t)
	d := loadMaglev(t, "", maglevSize)
	port := uint16(1000)
	for _, c := range []struct {
		name   string
		slot   uint32
		change func()
		run    func([]byte, int) (Verdict, []byte, error)
		want   int
	}{
		{"by the table", 1, nil, d.RunFromUplink, 1},
		{"a pod", 1, nil, d.RunFromPod, 2},
		{"no table", 1, func() { check(t, d.Map(abi.MaglevIndex).Delete(uint32(1))) }, d.RunFromUplink, 2},
		{"a table that isn't there", 1, func() { check(t, d.Map(abi.MaglevIndex).Put(uint32(1), uint32(16))) }, d.RunFromUplink, 2},
		{"an empty table", 0, nil, d.RunFromUplink, 2},
		{"a backend that is gone", 77, nil, d.RunFromUplink, 2},
		{"another Service's", 10_001, nil, d.RunFromUplink, 2},
	} {
		slots := func([]maglev.Member) []uint32 { return slices.Repeat([]uint32{c.slot}, maglevSize) }
		alike{backends: some(2, 1), slots: slots}.put(t, d)
		if c.change != nil {
			c.change()
		}
		hits := map[netip.AddrPort]int{}
		for range 64 {
			port++
			hits[backendOf(t, c.run, model.TCP, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), port), alikeFrontends[0])]++
		}
		if len(hits) != c.want {
			t.Errorf("%s: %v, want %d backends", c.name, hits, c.want)
		}
	}
}

// TestAffinityLeavesATerminatingBackendForTheTables has a client outside whose backend begins to terminate.
//
// Trap 46: a client outside with affinity whose backend terminates gets the one that all nodes pick for it, and keeps that when the first
// is back.
func TestAffinityLeavesATerminatingBackendForTheTables(t *testing.T) {
	testkit.NeedKernel(t)
	d := loadMaglev(t, "", maglevSize)
	backends := some(5, 1)
	service := alike{backends: backends, affinity: 60}
	service.put(t, d)
	port := uint16(1000)
	dial := func() netip.AddrPort {
		port++
		return backendOf(t, d.RunFromUplink, model.TCP, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), port), alikeFrontends[0])
	}
	first := dial()
	var id uint32
	left := map[uint32]netip.AddrPort{}
	for i, at := range backends {
		if at == first {
			id = i
		} else {
			left[i] = at
		}
	}
	service.backends = left
	service.put(t, d)
	check(t, d.Map(abi.Backends).Put(id, abi.Encode(abi.Backend{
		Addr: first.Addr().As16(), Port: abi.Port(first.Port()), Set: 1, Weight: 1, State: uint8(model.BackendTerminating), Layer: uint8(model.LayerCluster),
	})))
	var members []maglev.Member
	for i, at := range left {
		members = append(members, maglev.Member{ID: i, At: at, Weight: 1})
	}
	slot := maglev.SlotOf(maglev.HashClient(netip.MustParseAddr("198.51.100.7")), maglevSize)
	second := dial()
	if want := left[maglev.Fill(maglevSize, members)[slot]]; second != want {
		t.Errorf("the first backend terminates: %s, want %s", second, want)
	}
	service.backends = backends
	service.put(t, d)
	if third := dial(); third != second {
		t.Errorf("the first backend is back: %s, want %s as before", third, second)
	}
}

// Row 17: another table size over a restart is taken though the tables are pinned; connections go on, and picks are random until the
// tables are filled.
// Row 23: Maglev tables of another number or size are made anew; no connection is lost.
func TestMaglevTablesGetAnotherSize(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	d := loadMaglev(t, dir, maglevSize)
	backends := some(20, 1)
	alike{backends: backends}.put(t, d)
	random := rand.New(rand.NewPCG(3, 3))
	type dialled struct {
		client, service, backend netip.AddrPort
		protocol                 model.Protocol
	}
	var known []dialled
	for range 50 {
		var k dialled
		k.client, k.service, k.protocol = anyone(random)
		k.backend = backendOf(t, d.RunFromUplink, k.protocol, k.client, k.service)
		known = append(known, k)
	}
	d.Close()
	for _, size := range []uint32{2039, maglevSize} {
		d := loadMaglev(t, dir, size)
		for number := range uint32(2) {
			if got := uint32(len(d.MaglevTable(number))); got != size {
				t.Errorf("table %d has %d slots, want %d", number, got, size)
			}
			if slices.ContainsFunc(d.MaglevTable(number), func(id uint32) bool { return id != 0 }) {
				t.Errorf("table %d has backends", number)
			}
		}
		for _, k := range known {
			if got := backendOf(t, d.RunFromUplink, k.protocol, k.client, k.service); got != k.backend {
				t.Errorf("with %d slots %s → %s goes on to %s, was %s", size, k.client, k.service, got, k.backend)
			}
		}
		client, service, protocol := anyone(random)
		backendOf(t, d.RunFromUplink, protocol, client, service)
		d.Close()
	}
	// A size that stays keeps what is in the tables.
	d = loadMaglev(t, dir, maglevSize)
	atomic.StoreUint32(&d.MaglevTable(1)[7], 42)
	d.Close()
	if got := loadMaglev(t, dir, maglevSize).MaglevTable(1)[7]; got != 42 {
		t.Errorf("slot 7 holds %d after a restart, want 42", got)
	}
}

func TestMaglevTablesHaveBounds(t *testing.T) {
	testkit.NeedKernel(t)
	d := loadMaglev(t, "", maglevSize)
	last := small[abi.MaglevIndex] - 1
	for number, want := range map[uint32]int{0: maglevSize, last: maglevSize, last + 1: 0, 1 << 31: 0} {
		if got := len(d.MaglevTable(number)); got != want {
			t.Errorf("table %d has %d slots, want %d", number, got, want)
		}
	}
	atomic.StoreUint32(&d.MaglevTable(last)[maglevSize-1], 1)
	if _, err := Load(Options{Capacities: small, MaglevSize: 4096}); err == nil || fmt.Sprint(err) != fmt.Sprint(maglev.CheckSize(4096)) {
		t.Errorf("4096 slots: %v", err)
	}
}
