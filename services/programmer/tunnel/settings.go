// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of linux/ip.h (IPV4_DEVCONF) and linux/if_link.h. IPv4's settings are changed by netlink, for which the right
// to configure interfaces is enough: in a container /proc/sys can only be read.
const (
	devconfForwarding = 1
	devconfRPFilter   = 8

	iflaInetConf = 1
)

// settle has the kernel take what comes out of the device: packets of clients that this node may reach by another
// interface, which are routed to a pod.
func settle(l *netlink.Vxlan) error {
	if err := number(l); err != nil {
		return err
	}
	change := map[int]uint32{}
	for _, s := range []struct {
		number int
		want   func() (now, want uint32, err error)
	}{
		{devconfForwarding, func() (now, want uint32, err error) { now, err = read("ipv4", Name, "forwarding"); return now, 1, err }},
		{devconfRPFilter, reversePath},
	} {
		now, want, err := s.want()
		if err != nil {
			return err
		}
		if now != want {
			change[s.number] = want
		}
	}
	if err := setIPv4(l, change); err != nil {
		return fmt.Errorf("let packets through that come by interface %s (net.ipv4.conf.%s.forwarding and .rp_filter): %w", Name, Name, err)
	}
	return errors.Join(enableIPv6(), forwardIPv6())
}

// address is one that leads nowhere new: all of 127.0.0.0/8 is this node's own and answers to nobody else. Without any
// address on the interface that a packet comes by, the kernel checks its source strictly even if told to do it loosely
// (__fib_validate_source).
const address = "127.222.23.1/32"

// number gives the device its address.
func number(l *netlink.Vxlan) error {
	want, err := netlink.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("read %s: %w", address, err)
	}
	want.Scope = unix.RT_SCOPE_HOST
	have, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err == nil && !slices.ContainsFunc(have, want.Equal) {
		err = netlink.AddrReplace(l, want)
	}
	if err != nil {
		return fmt.Errorf("give interface %s the address %s, without which the kernel drops what comes by it: %w", Name, address, err)
	}
	return nil
}

// strictly is the rp_filter that asks for the way back by the same interface.
const strictly = 1

// reversePath says how strictly a packet's source is to be checked against the way back to it. The greater one of all
// interfaces' setting and the device's holds: 0 not at all, 1 the same interface, which the device never is, 2 any.
func reversePath() (now, want uint32, err error) {
	all, err := read("ipv4", "all", "rp_filter")
	if err != nil {
		return 0, 0, err
	}
	if now, err = read("ipv4", Name, "rp_filter"); err != nil {
		return 0, 0, err
	}
	const loose = 2
	switch {
	case max(all, now) != strictly:
		return now, now, nil
	case all == strictly:
		return now, loose, nil
	default:
		return now, 0, nil
	}
}

// enableIPv6 switches IPv6 on where it is off for new interfaces, and not for all.
func enableIPv6() error {
	all, err := read("ipv6", "all", "disable_ipv6")
	if err != nil || all != 0 {
		return ignoreMissing(err)
	}
	now, err := read("ipv6", Name, "disable_ipv6")
	if err != nil || now == 0 {
		return ignoreMissing(err)
	}
	if err := os.WriteFile(path("ipv6", Name, "disable_ipv6"), []byte("0"), 0); err != nil {
		return fmt.Errorf("IPv6 packets that other nodes send on are dropped here: net.ipv6.conf.%s.disable_ipv6 is 1 and can't be set to 0: %w; "+
			"set net.ipv6.conf.default.disable_ipv6 to 0 and remove the interface, which is made anew", Name, err)
	}
	return nil
}

// forwardIPv6 has routes be found for what comes by the device, where the node forwards IPv6 at all: answers leave by these.
func forwardIPv6() error {
	all, err := read("ipv6", "all", "forwarding")
	if err != nil || all == 0 {
		return ignoreMissing(err)
	}
	now, err := read("ipv6", Name, "forwarding")
	if err != nil || now != 0 {
		return ignoreMissing(err)
	}
	if err := os.WriteFile(path("ipv6", Name, "forwarding"), []byte("1"), 0); err != nil {
		return fmt.Errorf("IPv6 answers that other nodes send back are dropped here: net.ipv6.conf.%s.forwarding is 0 and can't be set to 1: %w; "+
			"set net.ipv6.conf.default.forwarding to 1 and remove the interface, which is made anew", Name, err)
	}
	return nil
}

// StrictAt returns those of interfaces, by index with their names, at which the kernel drops packets of IPv4 whose source is
// reached by another interface. One that is gone by now isn't among them.
func StrictAt(names map[int]string) (strict []int, err error) {
	all, err := read("ipv4", "all", "rp_filter")
	if err != nil {
		return nil, err
	}
	for ifindex, name := range names {
		now, err := read("ipv4", name, "rp_filter")
		if ignoreMissing(err) != nil {
			return nil, err
		}
		if err == nil && max(all, now) == strictly {
			strict = append(strict, ifindex)
		}
	}
	return strict, nil
}

// ignoreMissing is for kernels without IPv6, and interfaces that are gone.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func path(family, device, setting string) string {
	return "/proc/sys/net/" + family + "/conf/" + device + "/" + setting
}

// read reads a setting of the network namespace of the calling thread.
func read(family, device, setting string) (uint32, error) {
	name := path(family, device, setting)
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read a setting of the network: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return uint32(n), nil
}

// setIPv4 changes settings of the device.
func setIPv4(l *netlink.Vxlan, values map[int]uint32) error {
	if len(values) == 0 {
		return nil
	}
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(l.Index)
	families := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	settings := families.AddRtAttr(unix.AF_INET, nil).AddRtAttr(iflaInetConf, nil)
	for number, value := range values {
		settings.AddRtAttr(number, nl.Uint32Attr(value))
	}
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	request.AddData(message)
	request.AddData(families)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
