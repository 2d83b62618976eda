// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// portKind is what an interface is to the data plane. Its name is the first word of a pin.
type portKind string

const (
	podPort portKind = "pod"    // the host's side of a pod's interface
	uplink  portKind = "uplink" // an interface of the node's own
	tunnel  portKind = "tunnel" // the device that wraps and unwraps
)

// direction is one way through an interface.
type direction struct {
	kind    portKind
	name    string // of the program, and in the pin
	attach  ebpf.AttachType
	ingress bool
}

// Replies are translated before anything is that could have some.
var directions = []direction{
	{kind: podPort, name: "to_pod", attach: ebpf.AttachTCXEgress},
	{kind: podPort, name: "from_pod", attach: ebpf.AttachTCXIngress, ingress: true},
	{kind: uplink, name: "to_uplink", attach: ebpf.AttachTCXEgress},
	{kind: uplink, name: "from_uplink", attach: ebpf.AttachTCXIngress, ingress: true},
	{kind: tunnel, name: "from_tunnel", attach: ebpf.AttachTCXIngress, ingress: true},
}

// ways returns the directions of one kind of interface.
func (k portKind) ways() []direction {
	return slices.DeleteFunc(slices.Clone(directions), func(d direction) bool { return d.kind != k })
}

// port is one interface that has programs.
type port struct {
	kind    portKind
	ifindex int
}

// ports are the interfaces that have programs.
type ports struct {
	mu       sync.Mutex
	dir      string // of pins; empty: none
	tcx      bool   // the kernel has tcx; else clsact
	attached map[port][]link.Link
}

// openPorts finds what an earlier run attached.
func openPorts(d *Dataplane) (*ports, error) {
	p := &ports{tcx: haveTCX(d.pods.Programs["from_pod"]), attached: map[port][]link.Link{}}
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
		if at, _, ok := parsePortPin(e.Name()); ok {
			p.attached[at] = nil
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
func (d *Dataplane) AttachPod(ifindex int) error { return d.attachPort(port{podPort, ifindex}) }

// DetachPod takes the packet programs off an interface. One that has none, or is gone, is fine.
func (d *Dataplane) DetachPod(ifindex int) error { return d.detachPort(port{podPort, ifindex}) }

// AttachedPods returns the indexes of the interfaces that have the programs, those of an earlier run included, in
// ascending order.
func (d *Dataplane) AttachedPods() []int { return d.attachedPorts(podPort) }

// AttachUplink gives an interface of the node's own the programs of what comes from outside and what leaves, as
// AttachPod does for a pod's. FitXDP does the rest.
func (d *Dataplane) AttachUplink(ifindex int) error { return d.attachPort(port{uplink, ifindex}) }

// DetachUplink takes all programs off an interface. One that has none, or is gone, is fine.
func (d *Dataplane) DetachUplink(ifindex int) error {
	return errors.Join(d.endWire(ifindex), d.detachPort(port{uplink, ifindex}))
}

// AttachedUplinks is AttachedPods for uplinks.
func (d *Dataplane) AttachedUplinks() []int { return d.attachedPorts(uplink) }

func (d *Dataplane) attachPort(at port) error {
	if at.ifindex <= 0 {
		return fmt.Errorf("attach to interface %d: want an index above 0", at.ifindex)
	}
	if d.TakesOver() {
		d.later = append(d.later, func() error { return d.attachPort(at) })
		return nil
	}
	d.ports.mu.Lock()
	defer d.ports.mu.Unlock()
	var links []link.Link
	for _, dir := range at.kind.ways() {
		l, err := d.attachWay(at, dir)
		if err != nil {
			closeAll(links)
			return fmt.Errorf("attach %s to interface %d: %w", dir.name, at.ifindex, err)
		}
		if l != nil {
			links = append(links, l)
		}
	}
	closeAll(d.ports.attached[at])
	d.ports.attached[at] = links
	return nil
}

// attachWay puts our program before all others of an interface: one that returns TCX_PASS ends the list, and would
// else hide ours, so that a Service could not be reached. Ours never end it but for what they drop or refuse, so the
// others see every packet that goes on, after us.
func (d *Dataplane) attachWay(at port, dir direction) (link.Link, error) {
	program := d.program(dir.name)
	pin := d.ports.pin(at, dir)
	if !d.ports.tcx {
		return nil, attachFilter(at.ifindex, dir, program, pin)
	}
	fits := func(info *link.Info) bool {
		tcx := info.TCX()
		return tcx != nil && int(tcx.Ifindex) == at.ifindex
	}
	attach := func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{
			Interface: at.ifindex, Program: program, Attach: dir.attach, Anchor: link.Head(),
		})
	}
	return keepLink(pin, program, fits, attach)
}

func (d *Dataplane) detachPort(at port) error {
	d.ports.mu.Lock()
	defer d.ports.mu.Unlock()
	var failed []error
	for _, l := range d.ports.attached[at] {
		failed = append(failed, ignoreGone(l.Detach()), l.Close())
	}
	delete(d.ports.attached, at)
	for _, dir := range slices.Backward(at.kind.ways()) {
		if !d.ports.tcx {
			failed = append(failed, detachFilter(at.ifindex, dir))
		}
		if pin := d.ports.pin(at, dir); pin != "" {
			failed = append(failed, endLink(pin))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("detach from interface %d: %w", at.ifindex, err)
	}
	return nil
}

func (d *Dataplane) attachedPorts(kind portKind) []int {
	d.ports.mu.Lock()
	defer d.ports.mu.Unlock()
	var list []int
	for at := range d.ports.attached {
		if at.kind == kind {
			list = append(list, at.ifindex)
		}
	}
	slices.Sort(list)
	return list
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, links := range p.attached {
		closeAll(links)
	}
	p.attached = map[port][]link.Link{}
}

func (p *ports) pin(at port, dir direction) string {
	if p.dir == "" {
		return ""
	}
	return portPin(p.dir, at, dir)
}

func closeAll(links []link.Link) {
	for _, l := range links {
		l.Close()
	}
}
