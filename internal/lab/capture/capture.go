// SPDX-License-Identifier: Apache-2.0

// Package capture keeps the frames that pass a link, as they are on the wire: what comes in before any program of the
// node has seen it, what goes out after all of them.
//
// It promises that a frame is there once whoever it is for has it: the kernel queues a copy as the frame passes. The
// queue is bounded, and a frame that it had no room for is an error rather than missing.
package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// room is how many bytes of frames, with the kernel's own use of memory, may wait to be read.
const room = 8 << 20

// Frame is one frame, Ethernet header first, its VLAN tag in place.
type Frame struct {
	Out bool // sent by the link's own host
	// Unsummed frames have a checksum that a device was left to fill in (CHECKSUM_PARTIAL).
	Unsummed bool
	Bytes    []byte
}

// Capture is a packet socket at one link.
type Capture struct {
	link   string
	socket int
	buffer []byte
}

// On begins to keep what passes a link of a namespace. The caller closes the capture.
func On(namespace *space.Namespace, link string) (c *Capture, err error) {
	c = &Capture{link: link, socket: -1, buffer: make([]byte, 1<<17)}
	err = namespace.Do(func() error {
		if c.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return c.bind()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture frames on link %s: %w", link, err), c.Close())
	}
	return c, nil
}

func (c *Capture) bind() error {
	link, err := net.InterfaceByName(c.link)
	if err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(c.socket, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.Bind(c.socket, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: link.Index}))
}

// everything is ETH_P_ALL in network byte order.
const everything = unix.ETH_P_ALL << 8

// Frames returns what has passed since it was called last, the oldest first. It doesn't wait.
func (c *Capture) Frames() (frames []Frame, err error) {
	control := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{}))))
	for {
		n, nControl, _, from, err := unix.Recvmsg(c.socket, c.buffer, control, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return frames, c.complete()
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read what passed link %s: %w", c.link, err)
		}
		frame := Frame{Bytes: slices.Clone(c.buffer[:min(n, len(c.buffer))])}
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			frame.Out = link.Pkttype == unix.PACKET_OUTGOING
		}
		if err := frame.annotate(control[:nControl]); err != nil {
			return nil, fmt.Errorf("read what passed link %s: %w", c.link, err)
		}
		frames = append(frames, frame)
	}
}

// annotate takes over what the kernel says beside a frame.
func (f *Frame) annotate(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA {
			continue
		}
		var said unix.TpacketAuxdata
		if _, err := binary.Decode(m.Data, binary.NativeEndian, &said); err != nil {
			return err
		}
		f.Unsummed = said.Status&unix.TP_STATUS_CSUMNOTREADY != 0
		if said.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			tag := binary.BigEndian.AppendUint16(nil, said.Vlan_tpid)
			f.Bytes = slices.Insert(f.Bytes, 12, binary.BigEndian.AppendUint16(tag, said.Vlan_tci)...)
		}
	}
	return nil
}

// complete fails if frames found no room.
func (c *Capture) complete() error {
	statistics, err := unix.GetsockoptTpacketStats(c.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("ask whether all of link %s was captured: %w", c.link, err)
	}
	if statistics.Drops > 0 {
		return fmt.Errorf("%d of %d frames on link %s found no room; read them more often", statistics.Drops, statistics.Packets, c.link)
	}
	return nil
}

// Close ends the capture.
func (c *Capture) Close() error {
	if c.socket < 0 {
		return nil
	}
	return unix.Close(c.socket)
}
