// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// oldSocketMaps are the maps of what sockets remember, of layout 1, by their names in the programs.
var oldSocketMaps = map[string]string{"old_sockets": "sockets_v1", "old_datagrams": "datagrams_v1"}

// adoptSockets opens the maps of what sockets remember, of layout 1, if they are pinned, and lets the programs read
// them: the kernel has no way to copy them. TakeOver removes the pins; programs of this process go on reading.
func (d *Dataplane) adoptSockets() error {
	d.oldSockets = map[string]*ebpf.Map{}
	for _, dir := range d.older.dirs {
		for name, pin := range oldSocketMaps {
			if d.oldSockets[name] != nil {
				continue
			}
			m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pin), nil)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("open the map %s of an earlier release: %w", pin, err)
			}
			d.oldSockets[name] = m
			d.switches["adopting_sockets"] = true
		}
	}
	return nil
}
