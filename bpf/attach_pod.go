// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// direction is one way through the host's side of a pod's interface.
type direction struct {
	name    string // of the program, and in the pin
	attach  ebpf.AttachType
	ingress bool
}

// Replies are translated before anything is that could have some.
var directions = []direction{
	{name: "to_pod", attach: ebpf.AttachTCXEgress},
	{name: "from_pod", attach: ebpf.AttachTCXIngress, ingress: true},
}

// ports are the interfaces that have programs.
type ports struct {
	mu       sync.Mutex
	dir      string // of pins; empty: none
	tcx      bool   // the kernel has tcx; else clsact
	attached map[int][]link.Link
}

// openPorts finds what an earlier run attached.
func openPorts(d *Dataplane) (*ports, error) {
	p := &ports{tcx: haveTCX(d.pods.Programs["from_pod"]), attached: map[int][]link.Link{}}
	if !p.tcx {
		d.log.Info("packet programs attach by clsact: tcx came with Linux 6.6")
	}
	if d.pinDir == "" {
		return p, nil
	}
	p.dir = linksDir(d.pinDir)
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, fmt.Errorf("list the pinned links: %w", err)
	}
	for _, e := range entries {
		if ifindex, _, ok := parsePodPin(e.Name()); ok {
			p.attached[ifindex] = nil
		}
	}
	return p, nil
}

// haveTCX attaches to an interface that cannot be: a kernel with tcx says so, an older one does not know the call.
func haveTCX(program *ebpf.Program) bool {
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: program, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
	}
	return !errors.Is(err, ebpf.ErrNotSupported)
}

// AttachPod gives the host's side of a pod's interface the packet programs, in the network namespace of the
// calling thread. Others' programs there go on. It may be called again, also after a restart: the programs are
// exchanged in place.
func (d *Dataplane) AttachPod(ifindex int) error {
	if ifindex <= 0 {
		return fmt.Errorf("attach to interface %d: want an index above 0", ifindex)
	}
	d.ports.mu.Lock()
	defer d.ports.mu.Unlock()
	var links []link.Link
	for _, dir := range directions {
		l, err := d.attachPort(ifindex, dir)
		if err != nil {
			closeAll(links)
			return fmt.Errorf("attach %s to interface %d: %w", dir.name, ifindex, err)
		}
		if l != nil {
			links = append(links, l)
		}
	}
	closeAll(d.ports.attached[ifindex])
	d.ports.attached[ifindex] = links
	return nil
}

func (d *Dataplane) attachPort(ifindex int, dir direction) (link.Link, error) {
	program := d.pods.Programs[dir.name]
	pin := d.ports.pin(ifindex, dir)
	if !d.ports.tcx {
		return nil, attachFilter(ifindex, dir, program, pin)
	}
	fits := func(info *link.Info) bool {
		at := info.TCX()
		return at != nil && int(at.Ifindex) == ifindex
	}
	attach := func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: dir.attach})
	}
	return keepLink(pin, program, fits, attach)
}

// DetachPod takes the packet programs off an interface. One that has none, or is gone, is fine.
func (d *Dataplane) DetachPod(ifindex int) error {
	d.ports.mu.Lock()
	defer d.ports.mu.Unlock()
	var failed []error
	for _, l := range d.ports.attached[ifindex] {
		failed = append(failed, ignoreGone(l.Detach()), l.Close())
	}
	delete(d.ports.attached, ifindex)
	for _, dir := range slices.Backward(directions) {
		if !d.ports.tcx {
			failed = append(failed, detachFilter(ifindex, dir))
		}
		if pin := d.ports.pin(ifindex, dir); pin != "" {
			failed = append(failed, endLink(pin))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("detach from interface %d: %w", ifindex, err)
	}
	return nil
}

// AttachedPods returns the indexes of the interfaces that have the programs, those of an earlier run included, in
// ascending order.
func (d *Dataplane) AttachedPods() []int {
	d.ports.mu.Lock()
	defer d.ports.mu.Unlock()
	return slices.Sorted(maps.Keys(d.ports.attached))
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, links := range p.attached {
		closeAll(links)
	}
	p.attached = map[int][]link.Link{}
}

func (p *ports) pin(ifindex int, dir direction) string {
	if p.dir == "" {
		return ""
	}
	return podPin(p.dir, ifindex, dir)
}

func closeAll(links []link.Link) {
	for _, l := range links {
		l.Close()
	}
}
