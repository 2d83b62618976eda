// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// BenchmarkConnect measures connect() of a datagram socket, which sends nothing, in turns: to an address of no Service
// without our programs and with them, and to a Service; and bind() of a port that is no NodePort. One iteration is a
// round of each. Look at the differences: they hold across kernels, the socket's own part doesn't. On a busy machine look
// at the shortest rounds.
//
//	go test ./bpf -run '^$' -bench Connect -benchtime 300x
func BenchmarkConnect(b *testing.B) {
	testkit.NeedKernel(b)
	home := testkit.EnterCgroup(b)
	for _, frontends := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("frontends=%d", frontends), func(b *testing.B) { benchConnect(b, home, frontends) })
	}
}

func benchConnect(b *testing.B, cgroup string, frontends int) {
	b.Helper()
	room := uint32(16384)
	capacities := map[abi.Map]uint32{abi.Frontends: room, abi.Sets: room, abi.Slots: room, abi.Backends: room}
	ns := testkit.NewNetNS(b)
	pod := netip.MustParseAddrPort("10.1.0.1:8080")
	ns.Up(b, "lo", netip.PrefixFrom(pod.Addr(), 32))
	ns.Do(b, func() {
		d, err := Load(Options{Flows: 1024, Capacities: capacities})
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		for i := range frontends {
			id := uint32(i + 1)
			testkit.Put(b, d, testkit.Service{Set: id, Protocol: model.UDP, Frontends: []netip.AddrPort{vip(i)}, Backends: map[uint32]netip.AddrPort{id: pod}})
		}
		i := 0
		next := func() string { i += 7; return vip(i % frontends).String() }
		direct := func() { dialUDP(pod.String()) }
		service := func() { dialUDP(next()) }
		bind := func() { bindUDP("10.1.0.1:9000") }
		times := map[string][]float64{}
		measure := func(name string, f func()) { times[name] = append(times[name], perCall(50, f)) }
		for b.Loop() {
			measure("bare-direct", direct)
			measure("bare-bind", bind)
			if err := d.AttachCgroup(cgroup); err != nil {
				b.Fatal(err)
			}
			measure("direct", direct)
			measure("service", service)
			measure("bind", bind)
			for i := range d.hooks {
				d.hooks[i].close()
			}
		}
		b.ReportMetric(0, "ns/op")
		for name, all := range times {
			b.ReportMetric(median(all), name+"-ns")
		}
		b.ReportMetric(median(times["service"])/median(times["direct"]), "service/direct")
		b.ReportMetric(median(times["service"])/median(times["bare-direct"]), "service/bare")
		b.ReportMetric(median(times["bind"])/median(times["bare-bind"]), "bind/bare")
		b.ReportMetric(slices.Min(times["service"])/slices.Min(times["direct"]), "service/direct-of-least")
		b.ReportMetric(slices.Min(times["service"])/slices.Min(times["bare-direct"]), "service/bare-of-least")
	})
}

// perCall returns ns a call.
func perCall(n int, f func()) float64 {
	begin := time.Now()
	for range n {
		f()
	}
	return float64(time.Since(begin).Nanoseconds()) / float64(n)
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkMoveSockets measures a walk over connected sockets: ns a socket while all backends are there, and where all
// sockets have to move. One iteration is one walk of each.
//
//	go test ./bpf -run '^$' -bench MoveSockets -benchtime 10x
func BenchmarkMoveSockets(b *testing.B) {
	testkit.NeedKernel(b)
	const sockets = 100_000
	d, err := Load(Options{Capacities: small, Flows: 4 * sockets})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if err := d.AttachCgroup(testkit.EnterCgroup(b)); err != nil {
		b.Fatal(err)
	}
	service := testkit.Service{Set: 1, Protocol: model.UDP, Frontends: ends("10.96.0.1:53"), Backends: map[uint32]netip.AddrPort{1: ends("10.1.0.1:53")[0]}}
	testkit.Put(b, d, service)
	ns := testkit.NewNetNS(b)
	for _, source := range []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"} {
		a := netip.MustParseAddr(source)
		ns.Up(b, "lo", netip.PrefixFrom(a, 32))
		ns.Do(b, func() { connectMany(b, a, sockets/4) })
	}
	walk := func(want Moves) float64 {
		begin := time.Now()
		moves, err := d.MoveSockets()
		if err != nil || moves != want {
			b.Fatalf("%+v, %v; want %+v", moves, err, want)
		}
		return float64(time.Since(begin).Nanoseconds()) / sockets
	}
	var idle, gone, kept []float64
	for b.Loop() {
		idle = append(idle, walk(Moves{Walked: sockets}))
	}
	service.Backends = map[uint32]netip.AddrPort{2: ends("10.1.0.2:53")[0]}
	testkit.Put(b, d, service)
	testkit.RemoveBackend(b, d, 1)
	gone = append(gone, walk(Moves{Walked: sockets, Moved: sockets}))
	kept = append(kept, walk(Moves{Walked: sockets, Kept: sockets}))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(idle), "idle-ns/socket")
	b.ReportMetric(median(gone), "moved-ns/socket")
	b.ReportMetric(median(kept), "kept-ns/socket")
}

// connectMany makes connected sockets that last as long as the benchmark. They lie in the queue of a Unix socket, so
// that they count as nobody's descriptors.
func connectMany(b *testing.B, from netip.Addr, n int) {
	b.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	const together = 250 // of the 253 that one message may carry
	for first := 0; first < n; first += together {
		var fds []int
		for i := first; i < first+together; i++ {
			fds = append(fds, connectFrom(b, netip.AddrPortFrom(from, uint16(2000+i)), "10.96.0.1:53"))
		}
		if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
			b.Fatal(err)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

func connectFrom(b *testing.B, from netip.AddrPort, to string) int {
	b.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: from.Addr().As4(), Port: int(from.Port())})
	}
	if err == nil {
		err = syscall.Connect(fd, sockaddr(to))
	}
	if err != nil {
		b.Fatal(err)
	}
	return fd
}
