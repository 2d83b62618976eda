// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// streams are numbered datagrams from pods to pods, a stream for each call, all the time. Each number is kept with the
// time when it was sent and, by the kernel's clock, when it came: nothing that passes or fails to is overlooked.
type streams struct {
	t     *testing.T
	scene *scene
	tasks sync.WaitGroup
	stop  context.CancelFunc

	mu        sync.Mutex
	list      []*stream // by their id
	receivers map[netip.AddrPort]*net.UDPConn
}

// stream is the datagrams of one socket, numbered from 0. Times are in nanoseconds since 1970; 0 is never.
type stream struct {
	call

	id     uint32
	conn   net.Conn
	echoes bool // one in four is sent back

	mu    sync.Mutex
	ended bool
	sent  []int64
	came  []int64
	back  []int64
}

// echoed says whether a datagram is to be sent back.
func (s *stream) echoed(number uint64) bool { return s.echoes && number%4 == 0 }

// newStreams begins to send, one datagram a stream each pause.
func newStreams(t *testing.T, s *scene, pause time.Duration) *streams {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &streams{t: t, scene: s, stop: stop, receivers: map[netip.AddrPort]*net.UDPConn{}}
	t.Cleanup(r.close)
	r.tasks.Go(func() {
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		for ctx.Err() == nil {
			<-ticker.C
			for _, one := range r.all() {
				one.send()
			}
		}
	})
	return r
}

func (r *streams) all() []*stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list
}

func (r *streams) close() {
	r.stop()
	r.mu.Lock()
	for _, one := range r.list {
		one.conn.Close()
	}
	for _, socket := range r.receivers {
		socket.Close()
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

// inside runs f in a pod's network.
func (r *streams) inside(pod string, f func() error) {
	r.t.Helper()
	place, err := r.scene.Place(pod)
	check(r.t, err)
	check(r.t, space.OpenNamespace(place.Namespace).Do(f))
}

// add begins a stream; source is the port that it comes from, 0 for any.
func (r *streams) add(c call, source uint16, echoes bool) *stream {
	r.t.Helper()
	to, from := addressIn(r.scene.Cluster(), c.to, c.family), addressIn(r.scene.Cluster(), c.from, c.family)
	target := netip.AddrPortFrom(to, uint16(c.port))
	r.receive(c.to, target)
	one := &stream{call: c, echoes: echoes}
	r.inside(c.from, func() (err error) {
		one.conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, source)), net.UDPAddrFromAddrPort(target))
		return err
	})
	stamped(r.t, one.conn.(*net.UDPConn))
	r.mu.Lock()
	one.id = uint32(len(r.list))
	r.list = append(slices.Clip(r.list), one)
	r.mu.Unlock()
	r.tasks.Go(func() {
		eachDatagram(one.conn.(*net.UDPConn), func(data []byte, when int64, _ netip.AddrPort) {
			one.mu.Lock()
			defer one.mu.Unlock()
			one.back[binary.BigEndian.Uint64(data[4:])] = when
		})
	})
	return one
}

// receive listens at a pod's port, if nobody does yet.
func (r *streams) receive(pod string, at netip.AddrPort) {
	r.t.Helper()
	if r.receivers[at] != nil {
		return
	}
	var socket *net.UDPConn
	r.inside(pod, func() (err error) {
		socket, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	stamped(r.t, socket)
	r.mu.Lock()
	r.receivers[at] = socket
	r.mu.Unlock()
	r.tasks.Go(func() {
		eachDatagram(socket, func(data []byte, when int64, from netip.AddrPort) {
			number := binary.BigEndian.Uint64(data[4:])
			one := r.all()[binary.BigEndian.Uint32(data)]
			one.arrived(number, when)
			if one.echoed(number) {
				_, _ = socket.WriteToUDPAddrPort(data, from) // what is lost is noticed
			}
		})
	})
}

// send waits until so many datagrams more have been sent by the first stream.
func (r *streams) send(more int) {
	r.t.Helper()
	before := r.all()[0].numbers()
	testkit.Eventually(r.t, patience, func() bool { return r.all()[0].numbers() >= before+more })
}

func (s *stream) numbers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

func (s *stream) send() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	number := len(s.sent)
	s.sent, s.came, s.back = append(s.sent, time.Now().UnixNano()), append(s.came, 0), append(s.back, 0)
	s.mu.Unlock()
	data := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, s.id), uint64(number))
	if _, err := s.conn.Write(data); err != nil { // of an ICMP error, or closed
		s.mu.Lock()
		s.sent[number] = 0
		s.mu.Unlock()
	}
}

func (s *stream) arrived(number uint64, when int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.came[number] = when
}

// end sends no more, and leaves the socket for what is on its way.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// stamped has the kernel note when each datagram comes, and keep as many as it takes.
func stamped(t *testing.T, socket *net.UDPConn) {
	t.Helper()
	raw, err := socket.SyscallConn()
	check(t, err)
	var failed error
	check(t, raw.Control(func(fd uintptr) {
		failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	}))
	check(t, failed)
}

// eachDatagram reads until the socket is closed.
func eachDatagram(socket *net.UDPConn, do func(data []byte, when int64, from netip.AddrPort)) {
	data, beside := make([]byte, 64), make([]byte, 128)
	for {
		n, more, _, from, err := socket.ReadMsgUDPAddrPort(data, beside)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 12 {
			continue // an ICMP error, which is no datagram
		}
		do(data[:n], kernelTime(beside[:more]), from)
	}
}

// kernelTime reads what SO_TIMESTAMPNS puts beside a message.
func kernelTime(beside []byte) int64 {
	messages, err := syscall.ParseSocketControlMessage(beside)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return int64(binary.NativeEndian.Uint64(m.Data))*1e9 + int64(binary.NativeEndian.Uint64(m.Data[8:]))
		}
	}
	return 0
}
