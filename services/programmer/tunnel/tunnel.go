// SPDX-License-Identifier: Apache-2.0

// Package tunnel keeps the device by which packets of outside clients go from the node that they came to on to the
// node of their backend, and answers back: a VXLAN device that the programs tell, packet by packet, where to send.
//
// It promises that a device that is as it should be is not touched, that one of another kind with its name isn't either,
// that it is down until it is put up, and that what is wrong is said in a sentence.
//
// The one thing to know: a device that is up without its program takes anyone's packets out of their wrapping and routes
// what is within. So it goes up last. The kernel binds the UDP port then, of IPv4 and of IPv6, so that is when a
// port that is taken shows. The device is left behind, down, and put up as soon as the port is free: made anew at each
// try, it would be news to all that listen to the kernel, and to its own keeper.
package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Name is the device's.
const Name = "deltaplane0"

// DefaultPort is the UDP port that nodes send wrapped packets to. DefaultVNI is the network that those are of.
const (
	DefaultPort = 8475
	DefaultVNI  = 0xde17
)

// MTU is the device's, in bytes: the most that there is, so that the programs decide by the way to the other node what
// is too large, and tell the sender.
const MTU = 65535

// Device is what a node's device should be like.
type Device struct {
	Port uint16       // of UDP, the same on all nodes; 0 is no device
	Node model.NodeID // whose device it is
}

// Unknown is not an index: it could not be found out whether there is a device.
const Unknown = -1

// Keep has the network namespace of the calling thread hold the device, and returns its index, 0 if there is none, and
// Unknown if the kernel didn't say. With an index there may be an error all the same: of what it lacks. Whether the device
// is up stays as it is; a new one is down.
func (d Device) Keep() (ifindex int, err error) {
	if d.Port == 0 {
		_, err := Remove(false)
		return 0, err
	}
	l, err := find()
	if _, foreign := errors.AsType[foreignError](err); foreign {
		return 0, err
	}
	if err != nil {
		return Unknown, err
	}
	if l != nil && !d.fits(l) {
		if err := netlink.LinkDel(l); err != nil {
			return Unknown, fmt.Errorf("remove interface %s, which has other settings than it should: %w", Name, err)
		}
		l = nil
	}
	if l == nil {
		if l, err = d.add(); err != nil {
			return 0, err
		}
	}
	return l.Index, errors.Join(d.mend(l), settle(l))
}

// Remove takes the device from the network namespace of the calling thread, and says whether there was one.
func Remove(dry bool) (removed bool, err error) {
	l, err := find()
	if _, foreign := errors.AsType[foreignError](err); foreign {
		return false, nil // it stays
	}
	if err != nil || l == nil || dry {
		return l != nil, err
	}
	if err := netlink.LinkDel(l); err != nil {
		return false, fmt.Errorf("remove interface %s: %w", Name, err)
	}
	return true, nil
}

// foreignError is of a device of another kind: its type.
type foreignError string

func (e foreignError) Error() string {
	return fmt.Sprintf("interface %s is not deltaplane's: it is of type %s and no VXLAN device whose packets say where they go; "+
		"remove or rename it", Name, string(e))
}

// find returns the device, whatever its settings; nil if there is none. One of another kind is a foreignError.
func find() (*netlink.Vxlan, error) {
	l, err := netlink.LinkByName(Name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for interface %s: %w", Name, err)
	}
	vxlan, ok := l.(*netlink.Vxlan)
	if !ok || !vxlan.FlowBased {
		return nil, foreignError(l.Type())
	}
	return vxlan, nil
}

// fits says whether a device has what can't be changed later.
func (d Device) fits(l *netlink.Vxlan) bool {
	return l.Port == int(d.Port) && l.UDP6ZeroCSumRx && l.UDP6ZeroCSumTx && !l.Learning
}

// add makes the device, which is down. An answer or request in a packet over IPv6 has a checksum of its own, so the
// outer one may be zero (RFC 6935, RFC 6936).
func (d Device) add() (*netlink.Vxlan, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = Name, MTU, d.hardwareAddr()
	l := &netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(d.Port), UDP6ZeroCSumRx: true, UDP6ZeroCSumTx: true}
	switch err := netlink.LinkAdd(l); {
	case errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("make interface %s: %w: %s, or give all nodes another port by --tunnel-port", Name, err, d.taken())
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("make interface %s: %w: this kernel has no VXLAN; load its module (modprobe vxlan), "+
			"or have clients masqueraded on their way to other nodes by --tunnel-port 0", Name, err)
	case err != nil:
		return nil, fmt.Errorf("make interface %s: %w", Name, err)
	}
	// Nobody speaks IPv6 on the device itself: no address of the link, no search for routers.
	err := netlink.LinkSetIP6AddrGenMode(l, addrGenModeNone)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
		return nil, fmt.Errorf("keep interface %s without an IPv6 address: %w", Name, err)
	}
	made, err := find()
	if err == nil && made == nil {
		err = fmt.Errorf("interface %s is gone as soon as it was made: something on this node removes it", Name)
	}
	return made, err
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// hardwareAddr is what frames that this node sends have for their source. The kernel drops those that come back.
func (d Device) hardwareAddr() net.HardwareAddr {
	return binary.BigEndian.AppendUint32(net.HardwareAddr{0x02, 0xde}, uint32(d.Node))
}

// mend sets right what can be changed on a device.
func (d Device) mend(l *netlink.Vxlan) error {
	if want := d.hardwareAddr(); l.HardwareAddr.String() != want.String() {
		if err := netlink.LinkSetHardwareAddr(l, want); err != nil {
			return fmt.Errorf("give interface %s the address %s: %w", Name, want, err)
		}
	}
	if l.MTU != MTU {
		if err := netlink.LinkSetMTU(l, MTU); err != nil {
			return fmt.Errorf("give interface %s an MTU of %d: %w", Name, MTU, err)
		}
	}
	return nil
}
