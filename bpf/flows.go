// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// What follows is for those who run packets (RunFromPod); on a node that works it would break connections.

// ForgetFlows deletes all flows of the per-packet path, the connections of pods, the backends that clients had and what
// is known of datagrams in fragments, so that the next packet of each is its first.
func (d *Dataplane) ForgetFlows() error {
	for _, name := range []string{flowsMap, connectionsMap, affinitiesMap, fragmentsMap, heldMap} {
		if err := empty(d.maps[name]); err != nil {
			return fmt.Errorf("delete the entries of map %s: %w", name, err)
		}
	}
	return nil
}

func empty(m *ebpf.Map) error {
	key := make([]byte, m.KeySize())
	for {
		err := m.NextKey(nil, key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err == nil {
			err = ignoreMissing(m.Delete(key))
		}
		if err != nil {
			return err
		}
	}
}

// PassTime lets all that the programs remember be as many seconds older.
func (d *Dataplane) PassTime(seconds uint32) error {
	err := each(d.maps[flowsMap], func(flow *abi.Flow) { flow.Seen -= seconds })
	if err == nil {
		err = each(d.maps[affinitiesMap], func(a *abi.Affinity) { a.Seen -= seconds })
	}
	if err == nil {
		err = each(d.maps[connectionsMap], func(c *abi.Connection) { c.Seen -= seconds })
	}
	if err != nil {
		return fmt.Errorf("make flows older: %w", err)
	}
	return nil
}

// each changes the value of each entry of a map.
func each[V any](m *ebpf.Map, change func(*V)) error {
	aged := map[string][]byte{}
	err := eachEntry(m, func(key, raw []byte) error {
		var value V
		if err := abi.Decode(raw, &value); err != nil {
			return err
		}
		change(&value)
		aged[string(key)] = abi.Encode(value)
		return nil
	})
	if err != nil {
		return err
	}
	for key, value := range aged {
		if err := ignoreMissing(m.Update([]byte(key), value, ebpf.UpdateExist)); err != nil {
			return err
		}
	}
	return nil
}
