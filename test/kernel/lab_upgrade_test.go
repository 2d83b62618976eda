// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	labfabric "github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Row 24: a programmer that finds what one of map layout 1 left pinned takes it over without a failed connection or a
// lost flow: of sockets, and of packets where sockets aren't seen. The tables come over the bus, in its own time.
//
// Promise P4: an upgrade to another layout of the maps costs no connection.
func TestUpgradeFromLayout1UnderLoad(t *testing.T) {
	testkit.NeedKernel(t)
	c := buildAll(t)
	folder := filepath.Dir(c.program)
	come := holdProgrammers(t, folder)
	in, err := lab.Up(t.Context(), decoded(t, steady), lab.Options{
		Name: labName + "-upgrade", Nodes: 2, Binaries: folder, Agent: []string{c.program, "lab", "agent"},
	})
	check(t, err)
	downAtTheEnd(t, in)
	installLayout1(t, in, "node-2", "shop/client", "shop/sender")
	u := underLoad(t, c, in)
	u.someTime()
	come()
	u.takenOver()
	check(t, in.Restart("node-2"))
	roll(t, in, 0)
	u.end()
}

// Row 24: from the programs of an earlier release, if DELTAPLANE_PREVIOUS names the folder with them, to the present
// ones: all are exchanged and killed at once, as careless as it can be done.
func TestUpgradeFromTheReleaseBefore(t *testing.T) {
	r := releaseBefore(t, "release")
	r.install("watcher", "compiler", "programmer")
	kill(t, r.in)
	r.takenOver()
	roll(t, r.in, 0)
	r.end()
}

// Row 24: nodes of an earlier release under a newer compiler, whose rows they may not all understand, go on with what they
// have; once they are of its release, too, they have what it says.
func TestNodesOfTheReleaseBeforeGoOnUnderANewerCompiler(t *testing.T) {
	r := releaseBefore(t, "older")
	before, err := r.in.Status(t.Context())
	check(t, err)
	r.install("watcher", "compiler")
	for _, name := range []string{"watcher", "compiler"} {
		check(t, r.in.Signal(name, syscall.SIGKILL))
	}
	testkit.Eventually(t, time.Minute, func() bool {
		now, err := r.in.Status(t.Context())
		return err == nil && now.GetEpoch() > before.GetEpoch() && len(now.GetNodes()) == 2
	})
	r.someTime()
	now, err := r.in.Status(t.Context())
	check(t, err)
	for _, node := range now.GetNodes() {
		t.Logf("node %s: converged %t, %s %v", node.GetNode(), node.GetConverged(), node.GetReason(), node.GetApplied().GetFaults())
	}
	r.install("programmer")
	for _, name := range r.in.Processes() {
		if strings.HasPrefix(name, "programmer") {
			check(t, r.in.Signal(name, syscall.SIGKILL))
		}
	}
	r.takenOver()
	roll(t, r.in, 0)
	r.end()
}

// release is clients at work in a lab of an earlier release.
type release struct {
	*upgrade

	c      cli
	folder string // of the programs that the lab runs
}

func releaseBefore(t *testing.T, name string) *release {
	t.Helper()
	testkit.NeedKernel(t)
	previous := os.Getenv("DELTAPLANE_PREVIOUS")
	if previous == "" {
		t.Skip("no DELTAPLANE_PREVIOUS with the folder of an earlier release's watcher, compiler and programmer")
	}
	r := &release{c: buildAll(t), folder: t.TempDir()}
	for _, name := range []string{"watcher", "compiler", "programmer"} {
		check(t, os.Symlink(filepath.Join(previous, name), filepath.Join(r.folder, name)))
	}
	in, err := lab.Up(t.Context(), decoded(t, steady), lab.Options{
		Name: labName + "-" + name, Nodes: 2, Binaries: r.folder, Agent: []string{r.c.program, "lab", "agent"},
	})
	check(t, err)
	downAtTheEnd(t, in)
	r.upgrade = underLoad(t, r.c, in)
	r.someTime()
	return r
}

// install has the lab's next processes be of the present release.
func (r *release) install(names ...string) {
	r.t.Helper()
	for _, name := range names {
		check(r.t, os.Remove(filepath.Join(r.folder, name)))
		check(r.t, os.Symlink(filepath.Join(filepath.Dir(r.c.program), name), filepath.Join(r.folder, name)))
	}
}

// upgrade is clients at work in a lab while its programmers are exchanged: those of a pod whose sockets the node sees,
// and those of another that are in a cgroup of no node, so that it sees their packets alone.
type upgrade struct {
	load

	t  *testing.T
	in *lab.Lab
}

func underLoad(t *testing.T, c cli, in *lab.Lab) *upgrade {
	t.Helper()
	u := &upgrade{t: t, in: in}
	pod, err := in.Place("shop/sender")
	check(t, err)
	unseen, err := agent.Start(exec.Command(c.program, "lab", "agent"), func(cmd *exec.Cmd) error {
		return space.Start(cmd, space.OpenNamespace(pod.Namespace), nil)
	})
	check(t, err)
	t.Cleanup(unseen.Close)
	to, err := in.Resolve("shop/web:quote", 6)
	check(t, err)
	testkit.Eventually(t, patience, func() bool { // the node may be young
		got, err := unseen.Probe(t.Context(), agent.Target{Protocol: "udp", Address: to, Timeout: 100 * time.Millisecond}, 1, 0)
		return err == nil && got[0].Outcome == agent.OK
	})
	for _, stream := range []bool{true, false} {
		u.start(t, in, routes[:2], stream)
		for protocol, port := range map[string]string{"tcp": "http", "udp": "quote"} {
			for _, family := range []int{4, 6} {
				to, err := in.Resolve("shop/web:"+port, family)
				check(t, err)
				stop, err := unseen.Load(agent.Target{Protocol: protocol, Address: to, Timeout: patience, Stream: stream}, streamPause)
				check(t, err)
				u.add(fmt.Sprintf("packets to %s over %s, stream %t", to, protocol, stream), stream, stop)
			}
		}
	}
	return u
}

// someTime passes while the clients work.
func (u *upgrade) someTime() {
	u.t.Helper()
	_, err := u.in.Probe(u.t.Context(), lab.ProbeRequest{From: "shop/client", To: "shop/keep:http", Count: 20, Interval: streamPause})
	check(u.t, err)
}

// takenOver waits until the node has nothing of layout 1 any more.
func (u *upgrade) takenOver() {
	u.t.Helper()
	check(u.t, u.in.Converged(u.t.Context()))
	old := filepath.Join(u.in.Pins("node-2"), "maps")
	testkit.Eventually(u.t, patience, func() bool {
		_, err := os.Stat(old)
		return os.IsNotExist(err)
	})
	u.someTime()
}

// end fails the test unless every client always got its answer.
func (u *upgrade) end() {
	u.t.Helper()
	attempts, lost, told := u.load.end(u.t)
	for _, text := range told {
		u.t.Error(text)
	}
	u.t.Logf("%d questions of %d clients, %d lost", attempts, len(u.stops), lost)
}

// holdProgrammers makes programmers wait at their start until the function that it returns is called.
func holdProgrammers(t *testing.T, folder string) func() {
	t.Helper()
	program, held, gate := filepath.Join(folder, "programmer"), filepath.Join(folder, "programmer-held"), filepath.Join(folder, "gate")
	check(t, os.Rename(program, held))
	script := fmt.Sprintf("#!/bin/sh\nwhile [ ! -e %s ]; do sleep 0.05; done\nexec %s \"$@\"\n", gate, held)
	check(t, os.WriteFile(program, []byte(script), 0o755))
	return func() { check(t, os.WriteFile(gate, nil, 0o644)) }
}

// installLayout1 leaves on a node what a programmer of layout 1 did: programs at the links of pods and at the sockets
// of the node, and the tables of Service shop/web with its one backend.
func installLayout1(t *testing.T, in *lab.Lab, node string, names ...string) {
	t.Helper()
	place, err := in.Place("node/" + node)
	check(t, err)
	pins := in.Pins(node)
	links := filepath.Join(pins, "links")
	check(t, os.MkdirAll(filepath.Join(pins, "maps"), 0o700))
	check(t, os.MkdirAll(links, 0o700))
	pods, sockets := layout1(t, pins, "pods"), layout1(t, pins, "sockets")
	fillLayout1(t, in, pods.Maps)
	for name, at := range map[string]ebpf.AttachType{
		"recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"getpeername4": ebpf.AttachCgroupInet4GetPeername, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
		"sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect,
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: filepath.Dir(place.Cgroup), Attach: at, Program: sockets.Programs[name]})
		pinned(t, l, err, filepath.Join(links, name))
	}
	check(t, space.OpenNamespace(place.Namespace).Do(func() error {
		for _, name := range names {
			end, err := net.InterfaceByName(labfabric.LinkName(name))
			if err != nil {
				return err
			}
			for way, at := range map[string]ebpf.AttachType{"from_pod": ebpf.AttachTCXIngress, "to_pod": ebpf.AttachTCXEgress} {
				l, err := link.AttachTCX(link.TCXOptions{Interface: end.Index, Program: pods.Programs[way], Attach: at})
				if err != nil {
					return err
				}
				pinned(t, l, nil, filepath.Join(links, fmt.Sprintf("pod-%d-%s", end.Index, way)))
			}
		}
		return nil
	}))
}

func pinned(t *testing.T, l link.Link, err error, path string) {
	t.Helper()
	check(t, err)
	check(t, l.Pin(path))
	check(t, l.Close())
}

func layout1(t *testing.T, pins, name string) *ebpf.Collection {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("../../bpf/testdata/v1/" + name + "_bpfel.o")
	check(t, err)
	for name, m := range spec.Maps {
		if ok, _ := filepath.Match("*_v[0-9]", name); ok {
			m.Pinning = ebpf.PinByName
			if m.MaxEntries == 1024 {
				m.MaxEntries = 4096
			}
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: filepath.Join(pins, "maps")}})
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

// fillLayout1 writes the rows of Service shop/web as layout 1 had them.
func fillLayout1(t *testing.T, in *lab.Lab, maps map[string]*ebpf.Map) {
	t.Helper()
	id := uint32(0)
	for protocol, port := range map[model.Protocol]string{model.TCP: "http", model.UDP: "quote"} {
		for _, family := range []int{4, 6} {
			id++
			service, err := in.Resolve("shop/web:"+port, family)
			check(t, err)
			backend, err := in.Resolve("shop/keep:"+port, family)
			check(t, err)
			backendRow := struct {
				Addr         [16]byte
				Set          uint32
				Port         [2]byte
				State, Layer uint8
			}{backend.Addr().As16(), id, abi.Port(backend.Port()), uint8(model.BackendActive), 1}
			frontendRow := struct {
				Set         uint32
				Kind, Layer uint8
				_           uint16
			}{Set: id, Kind: 1, Layer: 1}
			check(t, maps["backends_v1"].Put(abi.Encode(id), abi.Encode(backendRow)))
			check(t, maps["slots_v1"].Put(abi.Encode(abi.SlotKey{Set: id}), abi.Encode(id)))
			check(t, maps["sets_v1"].Put(abi.Encode(id), append(abi.Encode(uint32(1)), make([]byte, 136)...)))
			check(t, maps["frontends_v1"].Put(abi.Encode(keyOf(service, protocol)), abi.Encode(frontendRow)))
		}
	}
}

func keyOf(at netip.AddrPort, protocol model.Protocol) abi.FrontendKey {
	return abi.KeyOfFrontend(model.FrontendKey{Addr: at.Addr(), Port: at.Port(), Protocol: protocol})
}
