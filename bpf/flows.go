// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// ForgetFlows deletes all flows of the per-packet path, so that the next packet of each is its first. It is for those
// who run packets (RunFromPod); on a node that works it would break connections.
func (d *Dataplane) ForgetFlows() error {
	flows := d.maps[flowsMap]
	key := make([]byte, flows.KeySize())
	for {
		err := flows.NextKey(nil, key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err == nil {
			err = flows.Delete(key)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete the entries of map %s: %w", flowsMap, err)
		}
	}
}
