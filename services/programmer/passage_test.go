// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// passagePlane remembers what is done about the device between nodes.
type passagePlane struct {
	inMemory
	did    []string
	failed error // of attachTunnel
}

func (p *passagePlane) attachTunnel(ifindex int) error {
	p.did = append(p.did, fmt.Sprintf("attach %d", ifindex))
	return p.failed
}

func (p *passagePlane) useTunnel(ifindex int) error {
	p.did = append(p.did, fmt.Sprintf("use %d", ifindex))
	return nil
}

// Trap 32: the device that takes packets out of their wrapping is up only while its program is attached, which drops those
// that no node has wrapped; and what says nothing of the device doesn't stop those that come.
func TestTheDeviceIsUpOnlyWithItsProgram(t *testing.T) {
	fault := errors.New("no buffer space")
	for _, c := range []struct {
		name       string
		through    int
		device     int
		attach, up error
		want       []string
	}{
		{"a new one", 0, 5, nil, nil, []string{"attach 5", "up 5", "use 5"}},
		{"one of a process before", tunnel.Unknown, 5, nil, nil, []string{"attach 5", "up 5", "use 5"}},
		{"one that is used", 5, 5, nil, nil, []string{"up 5"}},
		{"one in place of another", 4, 5, nil, nil, []string{"attach 5", "up 5", "use 5"}},
		{"it gets no program", 4, 5, fault, nil, []string{"attach 5", "down 5", "use 0"}},
		{"it gets no program, after a restart", tunnel.Unknown, 5, fault, nil, []string{"attach 5", "down 5", "use 0"}},
		{"the port is taken", 5, 5, nil, tunnel.ErrPortTaken, []string{"up 5", "use 0"}},
		{"the kernel doesn't say if it is up", 5, 5, nil, fault, []string{"up 5"}},
		{"the kernel doesn't say if there is one", 5, tunnel.Unknown, nil, nil, nil},
		{"there is none", 5, 0, nil, nil, []string{"use 0"}},
		{"there is none, still", 0, 0, nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := &passagePlane{inMemory: memoryPlane(), failed: c.attach}
			p := newPassage(plane, tunnel.Device{}, slog.New(slog.DiscardHandler))
			p.through, p.attached = c.through, max(c.through, 0)
			p.up = func(ifindex int) error { plane.did = append(plane.did, fmt.Sprintf("up %d", ifindex)); return c.up }
			p.down = func(ifindex int) error { plane.did = append(plane.did, fmt.Sprintf("down %d", ifindex)); return nil }
			err := p.use(c.device)
			if want := errors.Join(c.attach, c.up) != nil; want != (err != nil) {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(c.want, plane.did); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheDeviceIsPutDownWithItsProgram(t *testing.T) {
	for _, c := range []struct {
		mortal  bool
		through int
		want    []int
	}{{true, 5, []int{5}}, {true, 0, nil}, {false, 5, nil}} {
		p := newPassage(memoryPlane(), tunnel.Device{}, slog.New(slog.DiscardHandler))
		p.through, p.mortal = c.through, c.mortal
		var got []int
		p.down = func(ifindex int) error { got = append(got, ifindex); return nil }
		p.end()
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("programs end: %v; device %d; put down (-want +got):\n%s", c.mortal, c.through, diff)
		}
	}
}
