// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// SetLocals says which addresses are the node's own, with the flags of abi.Local. Only differences are written, what
// is new first.
func (d *Dataplane) SetLocals(addresses map[netip.Addr]uint8) error {
	want := make(map[string][]byte, len(addresses))
	for addr, flags := range addresses {
		want[string(abi.Encode(addr.As16()))] = abi.Encode(abi.Local{Flags: flags})
	}
	if err := makeMap(d.maps[localsMap], want); err != nil {
		return fmt.Errorf("tell the programs the node's %d addresses: %w", len(addresses), err)
	}
	return nil
}

// SetUplinks says by which interfaces, by index, packets leave the node, and with which addresses they are
// masqueraded there. Only differences are written, what is new first.
func (d *Dataplane) SetUplinks(interfaces map[int]abi.Uplink) error {
	want := make(map[string][]byte, len(interfaces))
	for ifindex, uplink := range interfaces {
		want[string(abi.Encode(uint32(ifindex)))] = abi.Encode(uplink)
	}
	if err := makeMap(d.maps[uplinksMap], want); err != nil {
		return fmt.Errorf("tell the programs the node's %d uplinks: %w", len(interfaces), err)
	}
	return nil
}

// makeMap gives a map the wanted entries and no others.
func makeMap(m *ebpf.Map, want map[string][]byte) error {
	missing := maps.Clone(want)
	var surplus []string
	err := eachEntry(m, func(key, value []byte) error {
		wanted, ok := want[string(key)]
		switch {
		case !ok:
			surplus = append(surplus, string(key))
		case string(wanted) == string(value):
			delete(missing, string(key))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, value := range missing {
		if err := m.Put([]byte(key), value); err != nil {
			return fmt.Errorf("write an entry of map %s, which has room for %d: %w", nameOf(m), m.MaxEntries(), err)
		}
	}
	for _, key := range surplus {
		if err := ignoreMissing(m.Delete([]byte(key))); err != nil {
			return fmt.Errorf("delete an entry of map %s: %w", nameOf(m), err)
		}
	}
	return nil
}

// serviceNetworksMax is SERVICE_NETWORKS of include/frontend.h.
const serviceNetworksMax = 16

// serviceNetworks is service_networks of include/frontend.h.
type serviceNetworks struct {
	Count    uint32
	_        [3]uint32
	Prefixes [serviceNetworksMax]struct{ Addr, Mask [16]byte }
}

// SetServiceNetworks tells the programs the prefixes of Services' addresses, so that they need not look up what is of
// none. Whoever writes them to the table of networks calls it after that; Load does it with what the table holds.
func (d *Dataplane) SetServiceNetworks(prefixes []netip.Prefix) error {
	var value serviceNetworks
	if len(prefixes) > serviceNetworksMax {
		return fmt.Errorf("%d prefixes of Services' addresses: the programs take %d", len(prefixes), serviceNetworksMax)
	}
	value.Count = uint32(len(prefixes))
	for i, p := range prefixes {
		p = p.Masked()
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		value.Prefixes[i].Addr = p.Addr().As16()
		for b := range bits {
			value.Prefixes[i].Mask[b/8] |= 0x80 >> (b % 8)
		}
	}
	for _, c := range d.collections() {
		if v, ok := c.Variables["service_networks"]; ok {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("tell the programs the prefixes of Services' addresses: %w", err)
			}
		}
	}
	return nil
}

// tellNetworks tells the programs what the table of networks holds.
func (d *Dataplane) tellNetworks() error {
	prefixes, err := d.serviceNetworksInTable()
	if err != nil {
		return err
	}
	return d.SetServiceNetworks(prefixes)
}

func (d *Dataplane) serviceNetworksInTable() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	err := eachEntry(d.Map(abi.Networks), func(k, v []byte) error {
		var key abi.NetworkKey
		var value abi.Network
		if err := abi.Decode(k, &key); err != nil {
			return err
		}
		if err := abi.Decode(v, &value); err != nil {
			return err
		}
		if model.NetworkKind(value.Kind) != model.NetworkServices {
			return nil
		}
		addr, bits := abi.Addr(key.Addr), int(key.Bits)
		if addr.Is4() {
			bits -= 96
		}
		prefixes = append(prefixes, netip.PrefixFrom(addr, bits))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the table of networks: %w", err)
	}
	return prefixes, nil
}
