// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// told returns the device that each program file with one was told, by the name of a program of it.
func told(t *testing.T, d *Dataplane) map[string]uint32 {
	t.Helper()
	devices := map[string]uint32{}
	for _, name := range []string{"from_uplink", "to_uplink", "from_tunnel"} {
		for _, c := range d.collections() {
			if c.Programs[name] == nil {
				continue
			}
			var device tunnelDevice
			check(t, c.Variables["tunnel"].Get(&device))
			devices[name] = device.Ifindex
		}
	}
	return devices
}

// TestRestartKeepsWrapping loads programs anew while packets are wrapped: until user space has found the device again they
// go on by the one that they had.
func TestRestartKeepsWrapping(t *testing.T) {
	needTCX(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	ns, ifindex := newPort(t)
	other := ns.Index(t, "peer")
	use := func(d *Dataplane, device int) {
		t.Helper()
		ns.Do(t, func() {
			if device != 0 {
				check(t, d.AttachTunnel(device))
			}
			check(t, d.UseTunnel(device))
		})
	}
	want := func(when string, d *Dataplane, device int) {
		t.Helper()
		all := map[string]uint32{"from_uplink": uint32(device), "to_uplink": uint32(device), "from_tunnel": uint32(device)}
		if diff := cmp.Diff(all, told(t, d)); diff != "" {
			t.Errorf("%s the programs were told (-want +got):\n%s", when, diff)
		}
		var attached []int
		if device != 0 {
			attached = []int{device}
		}
		if diff := cmp.Diff(attached, d.attachedPorts(tunnel)); diff != "" {
			t.Errorf("%s from_tunnel is at (-want +got):\n%s", when, diff)
		}
	}
	d := load(t, dir)
	want("at first", d, 0)
	use(d, ifindex)
	want("with a device", d, ifindex)
	d.Close()
	d = load(t, dir)
	want("after a restart", d, ifindex)
	use(d, other)
	want("with another device", d, other)
	use(d, 0)
	want("without one", d, 0)
	d.Close()
	want("after a restart without one", load(t, dir), 0)
}
