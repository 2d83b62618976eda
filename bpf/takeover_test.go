// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// v1 is an installation of layout 1, as its programmer left it pinned.
type v1 struct {
	pods    *ebpf.Collection
	ns      *testkit.NetNS
	ifindex int
}

// installV1 pins maps and attaches programs of layout 1, with one Service and its backend.
func installV1(t *testing.T, dir string) v1 {
	t.Helper()
	check(t, os.MkdirAll(filepath.Join(dir, "maps"), 0o700))
	check(t, os.MkdirAll(linksDir(dir), 0o700))
	old := v1{pods: loadV1(t, dir, "pods")}
	sockets := loadV1(t, dir, "sockets")
	old.ns, old.ifindex = newPort(t)
	cgroup := testkit.NewCgroup(t)
	for _, h := range socketHooks() {
		if program := sockets.Programs[h.name]; program != nil {
			l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: program})
			check(t, err)
			check(t, l.Pin(filepath.Join(linksDir(dir), h.name)))
			check(t, l.Close())
		}
	}
	old.ns.Do(t, func() {
		for _, way := range podPort.ways() {
			l, err := link.AttachTCX(link.TCXOptions{Interface: old.ifindex, Program: old.pods.Programs[way.name], Attach: way.attach})
			check(t, err)
			check(t, l.Pin(portPin(linksDir(dir), port{podPort, old.ifindex}, way)))
			check(t, l.Close())
		}
	})
	backend := netip.MustParseAddrPort("10.1.0.1:8080")
	for name, entry := range map[string][2][]byte{
		"backends_v1":  {abi.Encode(uint32(7)), abi.Encode(backendV1{Addr: backend.Addr().As16(), Set: 3, Port: abi.Port(8080), State: 1})},
		"slots_v1":     {abi.Encode(abi.SlotKey{Set: 3}), abi.Encode(uint32(7))},
		"sets_v1":      {abi.Encode(uint32(3)), append(abi.Encode(uint32(1)), make([]byte, 136)...)},
		"frontends_v1": {abi.Encode(abi.KeyOfFrontend(model.FrontendKey{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: model.TCP})), abi.Encode(abi.Frontend{Set: 3, Kind: 1})},
	} {
		check(t, old.pods.Maps[name].Put(entry[0], entry[1]))
	}
	return old
}

// backendV1 is struct backend of layout 1.
type backendV1 struct {
	Addr  [16]byte
	Set   uint32
	Port  [2]byte
	State uint8
	Layer uint8
}

func loadV1(t *testing.T, dir, name string) *ebpf.Collection {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("testdata/v1/" + name + "_bpfel.o")
	check(t, err)
	for name, m := range spec.Maps {
		if versioned.MatchString(name) {
			m.Pinning = ebpf.PinByName
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: filepath.Join(dir, "maps")}})
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

// packets of one connection, after it was begun.
type packets struct{ toService, toBackend, fromBackend, fromService []byte }

func connection(t *testing.T, client string) packets {
	t.Helper()
	return packets{
		toService:   frame(t, model.TCP, client, "10.96.0.1:80", "A", 0),
		toBackend:   frame(t, model.TCP, client, "10.1.0.1:8080", "A", 0),
		fromBackend: frame(t, model.TCP, "10.1.0.1:8080", client, "A", 0),
		fromService: frame(t, model.TCP, "10.96.0.1:80", client, "A", 0),
	}
}

// goesOn fails the test unless programs translate a connection's packets both ways.
func goesOn(t *testing.T, from, to *ebpf.Program, p packets, when string) {
	t.Helper()
	for _, way := range []struct {
		name     string
		program  *ebpf.Program
		in, want []byte
	}{{"from the client", from, p.toService, p.toBackend}, {"from the backend", to, p.fromBackend, p.fromService}} {
		verdict, out, err := run(way.program, way.in, 0)
		check(t, err)
		if verdict != Pass || string(out) != string(way.want) {
			t.Errorf("%s, %s: %v\n got %x\nwant %x", when, way.name, verdict, out, way.want)
		}
	}
}

// attached are the programs that a port has, as its packets find them.
func attached(t *testing.T, dir string, ifindex int) (from, to *ebpf.Program) {
	t.Helper()
	var found []*ebpf.Program
	for _, way := range podPort.ways() {
		l, err := link.LoadPinnedLink(portPin(linksDir(dir), port{podPort, ifindex}, way), nil)
		check(t, err)
		info, err := l.Info()
		check(t, err)
		check(t, l.Close())
		p, err := ebpf.NewProgramFromID(info.Program)
		check(t, err)
		t.Cleanup(func() { p.Close() })
		found = append(found, p)
	}
	return found[1], found[0]
}

// errKilled ends a process in a test.
var errKilled = errors.New("killed")

// stepsOf runs a life of a process and returns the steps that it went through.
func stepsOf(life func(steps func(string) error)) (names []string) {
	life(func(name string) error { names = append(names, name); return nil })
	return names
}

// everyStep says if tests end the process at each step, which takes minutes, and not only where most could go wrong.
func everyStep() bool { return os.Getenv("DELTAPLANE_EVERY_STEP") == "1" }

// killedAt returns a hook that ends the process at a step.
func killedAt(step string) func(string) error {
	return func(name string) error {
		if name == step {
			return errKilled
		}
		return nil
	}
}

// TestInstallationOfLayout1IsTakenOver: whatever happens while it is, its connections go on and no program sees empty
// tables.
//
// Row 24: an installation with the earlier layout of maps is taken over, and its connections go on.
// Trap 34: programs see full tables at each step of the exchange.
// Trap 35: flows of the earlier layout are found, translated and copied.
func TestInstallationOfLayout1IsTakenOver(t *testing.T) {
	needTCX(t)
	life := func(t *testing.T, dir string, steps func(string) error) (*Dataplane, error) {
		t.Helper()
		d, err := Load(Options{PinDir: dir, Capacities: small, Flows: 1024, steps: steps})
		check(t, err)
		t.Cleanup(d.Close)
		backend := map[uint32]netip.AddrPort{9: netip.MustParseAddrPort("10.1.0.2:8080")}
		testkit.Put(t, d, testkit.Service{Set: 5, Protocol: model.TCP, Frontends: ends("10.96.0.1:80"), Backends: backend})
		return d, d.TakeOver()
	}
	begin := func(t *testing.T) (string, v1) {
		t.Helper()
		dir := filepath.Join(testkit.BPFFS(t), "node")
		old := installV1(t, dir)
		verdict, _, err := run(old.pods.Programs["from_pod"], frame(t, model.TCP, "10.1.0.9:4000", "10.96.0.1:80", "S", 0), 0)
		check(t, err)
		if verdict != Pass {
			t.Fatalf("layout 1 does not forward: %v", verdict)
		}
		return dir, old
	}
	names := stepsOf(func(steps func(string) error) {
		dir, old := begin(t)
		_, err := life(t, dir, func(step string) error {
			from, to := attached(t, dir, old.ifindex)
			goesOn(t, from, to, connection(t, "10.1.0.9:4000"), "before "+step)
			return steps(step)
		})
		check(t, err)
	})
	for _, step := range names {
		if !everyStep() && !slices.Contains([]string{"exchange for adopting programs", "load programs", "remove the old maps", "end"}, step) {
			continue
		}
		t.Run("killed at "+step, func(t *testing.T) {
			dir, old := begin(t)
			_, before := linkIDs(t, dir)
			d, err := life(t, dir, killedAt(step))
			if step != "end" && !errors.Is(err, errKilled) {
				t.Fatalf("not killed: %v", err)
			}
			d.Close()
			if _, after := linkIDs(t, dir); step == names[0] && !maps.Equal(before, after) {
				t.Error("programs were exchanged before the tables were filled")
			}
			d, err = life(t, dir, nil)
			check(t, err)
			old.ns.Do(t, func() { check(t, d.AttachPod(old.ifindex)) })
			goesOn(t, d.program("from_pod"), d.program("to_pod"), connection(t, "10.1.0.9:4000"), "afterwards")
			if d.TakesOver() {
				t.Error("there is still something to take over")
			}
			if _, err := os.Stat(filepath.Join(dir, "maps")); !os.IsNotExist(err) {
				t.Errorf("the old maps are still pinned: %v", err)
			}
			l, err := link.LoadPinnedLink(portPin(linksDir(dir), port{podPort, old.ifindex}, podPort.ways()[1]), nil)
			check(t, err)
			defer l.Close()
			info, err := l.Info()
			check(t, err)
			ours, err := d.program("from_pod").Info()
			check(t, err)
			if id, _ := ours.ID(); id != info.Program {
				t.Errorf("the link has program %d, want %d", info.Program, id)
			}
		})
	}
}

// TestATakeOverThatBrokeOffGoesOnInAnotherSize: what it had pinned gets the size that is configured now, and keeps what is
// in it.
func TestATakeOverThatBrokeOffGoesOnInAnotherSize(t *testing.T) {
	needTCX(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	old := installV1(t, dir)
	d, err := Load(Options{PinDir: dir, Capacities: small, Flows: 1024, steps: killedAt("copy flows")})
	check(t, err)
	testkit.Put(t, d, testkit.Service{
		Set: 5, Protocol: model.TCP, Frontends: ends("10.96.0.1:80"), Backends: map[uint32]netip.AddrPort{9: netip.MustParseAddrPort("10.1.0.2:8080")},
	})
	if err := d.TakeOver(); !errors.Is(err, errKilled) {
		t.Fatalf("not killed: %v", err)
	}
	d.Close()
	larger := maps.Clone(small)
	larger[abi.Backends] = 4096
	d, err = Load(Options{PinDir: dir, Capacities: larger, Flows: 1024})
	check(t, err)
	t.Cleanup(d.Close)
	check(t, d.TakeOver())
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(mapsDir(dir), abi.Backends.String()), nil)
	check(t, err)
	defer pinned.Close()
	if got := pinned.MaxEntries(); got != 4096 {
		t.Errorf("the pinned map has room for %d", got)
	}
	if held := backendsIn(t, d); len(held) != 1 || held[9].Set != 5 {
		t.Errorf("backends %v", held)
	}
	old.ns.Do(t, func() { check(t, d.AttachPod(old.ifindex)) })
}

// TestAttachingWaitsForTheTables: until the tables are filled, the old programs stay.
func TestAttachingWaitsForTheTables(t *testing.T) {
	needTCX(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	old := installV1(t, dir)
	links, programs := linkIDs(t, dir)
	d := load(t, dir)
	if !d.TakesOver() {
		t.Fatal("the old installation was not seen")
	}
	old.ns.Do(t, func() { check(t, d.AttachPod(old.ifindex)) })
	check(t, d.AttachCgroup(testkit.NewCgroup(t)))
	old.ns.Do(t, func() {
		if err := d.AttachTunnel(old.ifindex); err == nil {
			t.Error("a device that has no program yet is taken to be safe to put up")
		}
	})
	linksNow, programsNow := linkIDs(t, dir)
	for name := range links {
		if links[name] != linksNow[name] || programs[name] != programsNow[name] {
			t.Errorf("%s was exchanged", name)
		}
	}
	check(t, d.TakeOver())
	if _, now := linkIDs(t, dir); len(now) <= len(programs) {
		t.Errorf("%d links, want those that layout 1 had not (bind) too", len(now))
	}
}
