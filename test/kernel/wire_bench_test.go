// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"io"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// BenchmarkXDPModes measures frames on a veth by where XDP is: small ones that are wrapped and sent back, and a transfer to
// a process of the node, which is nobody's Service and pays for it all the same. Compare modes within one run.
//
//	go test ./test/kernel -run '^$' -bench XDPModes -benchtime 50000x
func BenchmarkXDPModes(b *testing.B) {
	for _, mode := range []bpf.XDPMode{bpf.XDPOff, bpf.XDPGeneric, bpf.XDPNative} {
		o := newOutpost(b)
		if mode == bpf.XDPNative {
			o.takeFrames()
			setChecksumOffload(b, o.far, "eth0", false) // XDP knows of no checksum that is still to be filled in
		}
		e := o.load(mode, true, false)
		e.serve(model.ForwardTunnel, thereID)
		e.write(b)
		b.Run("wrapped/"+string(mode), o.benchWrapped)
		b.Run("transfer/"+string(mode), o.benchTransfer)
	}
}

// benchWrapped sends segments of one connection.
func (o *outpost) benchWrapped(b *testing.B) {
	w := o.listen(b)
	defer unix.Close(w.fd)
	begins := segment{from: outside4, to: outpostVIP4, syn: true}
	w.wrapped(o.addressed(begins).frame(b))
	frame := o.addressed(segment{from: outside4, to: outpostVIP4, seq: 1, ack: true, acked: 1, payload: 100}).frame(b)
	w.wrapped(frame)
	before := o.sentBack(b)
	for b.Loop() {
		must(unix.Write(w.fd, frame))(b)
	}
	b.ReportMetric(float64(o.sentBack(b)-before)/float64(b.N), "sent/frame")
}

func (o *outpost) sentBack(b *testing.B) (packets uint64) {
	b.Helper()
	o.far.Do(b, func() { packets = must(netlink.LinkByName("eth0"))(b).Attrs().Statistics.RxPackets })
	return packets
}

// benchTransfer sends 64 KiB with each iteration over one connection.
func (o *outpost) benchTransfer(b *testing.B) {
	o.far.Do(b, func() {
		at := must(netlink.LinkByName("eth0"))(b)
		netlink.AddrAdd(at, must(netlink.ParseAddr(outpostFar4+"/24"))(b)) // once
	})
	var listener net.Listener
	o.node.Do(b, func() { listener = must(net.Listen("tcp4", outpostNode4+":9000"))(b) })
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := listener.Accept(); err == nil {
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	data := make([]byte, 64<<10)
	o.far.Do(b, func() {
		conn := must(net.Dial("tcp4", outpostNode4+":9000"))(b)
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			must(conn.Write(data))(b)
		}
		conn.Close()
	})
	<-done
}
