// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
)

// pool gives out addresses of one prefix.
type pool struct {
	prefix netip.Prefix
	used   map[netip.Addr]bool
	next   netip.Addr
}

// newPool leaves out the first reserved addresses of the prefix, the network's own among them.
func newPool(prefix netip.Prefix, reserved int) *pool {
	p := &pool{prefix: prefix.Masked(), used: map[netip.Addr]bool{}}
	p.next = p.prefix.Addr()
	for range reserved {
		p.used[p.next] = true
		p.next = p.next.Next()
	}
	return p
}

// take marks an address as used and goes on behind it, so that an address that was freed isn't given out at once.
func (p *pool) take(addr netip.Addr) {
	if !p.prefix.Contains(addr) {
		return
	}
	p.used[addr] = true
	if !addr.Less(p.next) {
		p.next = addr.Next()
	}
}

// give returns the next free address and starts from the beginning at the end.
func (p *pool) give() (netip.Addr, error) {
	at, wrapped := p.next, false
	for {
		if !p.prefix.Contains(at) || !at.IsValid() {
			if wrapped {
				return netip.Addr{}, fmt.Errorf("%s has no address left", p.prefix)
			}
			at, wrapped = p.prefix.Addr(), true
		}
		// The last address of an IPv4 prefix is its broadcast address.
		last := at.Is4() && p.prefix.Bits() < 31 && !p.prefix.Contains(at.Next())
		if !p.used[at] && !last {
			p.used[at] = true
			p.next = at.Next()
			return at, nil
		}
		at = at.Next()
	}
}

// familyOfAddr returns 4 or 6.
func familyOfAddr(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}

// parse returns the addresses among texts; what is no address was refused before and is left out.
func parse(texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func has(addrs []netip.Addr, family int) bool {
	for _, addr := range addrs {
		if familyOfAddr(addr) == family {
			return true
		}
	}
	return false
}
