// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/node"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// interfaces attaches the packet programs to the interfaces of the node's pods, those that a route to the pod's address
// alone goes through, and to its uplinks, in the network namespace that this process runs in; keeps the device
// between nodes; and tells the programs the node's own addresses. All of that comes and goes in any order; it is looked at again when the kernel tells of a
// change, every 30 s, and every second while something is missing.
//
// An interface that looks like a pod's gets the programs at once, before anyone says whose it is: while there are
// policies they let nothing pass of a pod that isn't known.
type interfaces struct {
	plane   dataplane
	log     *slog.Logger
	options node.Options
	problem func(string)     // told what is missing for longer than patience; empty once nothing is
	found   func(node.Found) // told what there is
	leads   func(exits)      // told what leads out of the node

	wanted  chan []model.Endpoint // holds the newest
	routes  func() (map[netip.Addr]int, error)
	list    func() ([]node.Interface, error)
	changes func(context.Context) <-chan struct{}
	appear  func(context.Context) <-chan node.Pair

	attached map[port]bool // by this process
	tunnel   *passage
	missing  map[string]time.Time // since when, by what a person reads
	late     map[string]time.Time // of this look
	told     string
}

// port is an interface with programs.
type port struct {
	ifindex int
	uplink  bool
}

// patience is how long a pod's interface may be late before it is a fault.
const patience = 5 * time.Second

func newInterfaces(plane dataplane, log *slog.Logger, options node.Options, device tunnel.Device, problem func(string)) *interfaces {
	return &interfaces{
		plane: plane, log: log, options: options, problem: problem, found: func(node.Found) {}, leads: func(exits) {},
		wanted: make(chan []model.Endpoint, 1), routes: node.HostRoutes, list: node.Read, changes: node.Watch, appear: node.Appear,
		tunnel: newPassage(plane, device, log), attached: map[port]bool{}, missing: map[string]time.Time{}, late: map[string]time.Time{},
	}
}

// want says whose interfaces are to be attached. It never waits.
func (p *interfaces) want(endpoints []model.Endpoint) {
	select {
	case <-p.wanted:
	default:
	}
	p.wanted <- endpoints
}

// run attaches nothing until the pods are known, else their interfaces were taken for uplinks; but for what looks like a
// pod's if there were policies when it began.
func (p *interfaces) run(ctx context.Context) error {
	changes, appeared := p.changes(ctx), p.appear(ctx)
	var wanted []model.Endpoint
	known, early := false, p.judged()
	retry := time.NewTimer(0)
	defer retry.Stop()
	defer p.tunnel.end()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case pair := <-appeared:
			if known || early {
				p.heard(pair, time.Now())
			}
			continue
		case wanted = <-p.wanted:
			known = true
		case <-changes:
		case <-retry.C:
		}
		var again bool
		switch {
		case ctx.Err() != nil:
		case known:
			again = p.reconcile(wanted, time.Now())
		case early:
			again = p.attachEarly(time.Now())
		}
		if again {
			retry.Reset(time.Second)
		}
	}
	return nil
}

// judged says whether the programs judge already, since the tables that they have are of a cluster with policies.
func (p *interfaces) judged() bool {
	epoch, err := p.plane.epoch()
	if err != nil {
		p.log.Warn("taking it that there are policies", "error", err)
	}
	return epoch != 0 || err != nil
}

// attachEarly attaches to what looks like a pod's and has no programs, before the tables are known to be those of now:
// such a pod came while no programmer ran.
func (p *interfaces) attachEarly(now time.Time) (again bool) {
	listed, err := p.list()
	if err != nil {
		return true
	}
	had := p.plane.attachedPods()
	for _, i := range listed {
		if _, before := slices.BinarySearch(had, i.Index); !before {
			p.attachNew(i, now)
		}
	}
	return false
}

// heard attaches to a new pod's interface before anything else is known of it.
func (p *interfaces) heard(pair node.Pair, now time.Time) {
	if pair.Gone {
		delete(p.attached, port{pair.Index, false})
		delete(p.attached, port{pair.Index, true})
		return
	}
	p.attachNew(pair.Interface, now)
}

// attachNew attaches to an interface that may be a new pod's.
func (p *interfaces) attachNew(i node.Interface, now time.Time) {
	if i.OfPod(&p.options) && !p.attached[port{i.Index, true}] {
		p.attach(port{i.Index, false}, "interface "+i.Name, now)
	}
}

// reconcile attaches what is wanted and detaches what isn't. It says whether to try again.
func (p *interfaces) reconcile(wanted []model.Endpoint, now time.Time) (again bool) {
	if err := p.look(wanted, now); err != nil {
		p.tell(map[string]time.Time{err.Error(): {}}, now)
		return true
	}
	p.tell(p.late, now)
	return len(p.late) > 0
}

// look is reconcile without telling.
func (p *interfaces) look(wanted []model.Endpoint, now time.Time) error {
	p.late = map[string]time.Time{}
	device, errDevice := p.tunnel.keep() // first, so that the list has it
	p.noteError(errDevice, now)
	routes, errRoutes := p.routes()
	listed, errList := p.list()
	if err := cmp.Or(errRoutes, errList); err != nil {
		return fmt.Errorf("look at the node's interfaces: %w", err)
	}
	pods := map[int]bool{}
	for _, e := range wanted {
		if ifindex, found := routes[e.Addr]; found {
			pods[ifindex] = true
		}
	}
	found := node.Find(listed, pods, p.options)
	for ifindex := range found.Pods {
		pods[ifindex] = true
	}
	p.found(found)
	// What programs read is there before they are.
	p.noteError(p.plane.setLocals(found.Locals), now)
	uplinks := maps.Clone(found.Uplinks)
	uplinks[int(abi.UplinkAny)] = found.Any
	for _, ifindex := range found.Others {
		uplinks[ifindex] = abi.Uplink{} // known, so that the programs don't take it for a new pod's
	}
	p.noteError(p.plane.setUplinks(uplinks), now)
	strict, errStrict := tunnel.StrictAt(found.Names)
	p.noteError(cmp.Or(errStrict, p.plane.checkSources(strict)), now)
	errUse := p.tunnel.use(device)
	p.noteError(errUse, now)
	p.attachPods(wanted, routes, &found, now)
	for _, ifindex := range slices.Sorted(maps.Keys(found.Pods)) {
		p.attach(port{ifindex, false}, "interface "+found.Pods[ifindex], now)
	}
	for _, ifindex := range slices.Sorted(maps.Keys(found.Uplinks)) {
		p.attach(port{ifindex, true}, found.Names[ifindex], now)
	}
	p.detachOthers(pods, &found, now)
	wires, err := p.plane.fitXDP()
	p.noteError(err, now)
	p.noteError(p.confirm(wires), now)
	p.leads(exits{p.tunnel.through, errors.Join(errDevice, errUse), found.Locals, found.Names, wires})
	p.missing = p.late
	return nil
}

// confirm has the kernel look after the neighbours that XDP sends to.
func (p *interfaces) confirm(wires []bpf.Wire) error {
	for _, w := range wires {
		if w.Mode == bpf.XDPOff {
			continue
		}
		if err := node.ConfirmNeighbours(w.Ifindex); err != nil {
			return err
		}
	}
	return nil
}

// attachPods attaches to the interfaces of pods that have their own. What comes from those behind a shared bridge is
// seen at the bridge.
func (p *interfaces) attachPods(wanted []model.Endpoint, routes map[netip.Addr]int, found *node.Found, now time.Time) {
	for _, e := range wanted {
		if ifindex, own := routes[e.Addr]; own {
			p.attach(port{ifindex, false}, "pod "+e.Pod, now)
			continue
		}
		switch shared := slices.ContainsFunc(found.Networks, func(n netip.Prefix) bool { return n.Contains(e.Addr) }); {
		case !shared:
			p.note(fmt.Sprintf("pod %s: no interface has a route to %s alone; waiting for one", e.Pod, e.Addr), now)
		case e.Ingress != 0 || e.Egress != 0:
			p.note(fmt.Sprintf("pod %s: its policies are not enforced, since %s is behind a bridge that pods share", e.Pod, e.Addr), now)
		}
	}
}

func (p *interfaces) attach(at port, whose string, now time.Time) {
	if p.attached[at] {
		return
	}
	attach := p.plane.attachPod
	if at.uplink {
		attach = p.plane.attachUplink
		// A pod's interface before, if another process made it an uplink's.
		delete(p.attached, port{at.ifindex, false})
	}
	if err := attach(at.ifindex); err != nil {
		p.note(fmt.Sprintf("%s: %v", whose, err), now)
		return
	}
	p.attached[at] = true
	p.log.Info("attached", "to", whose, "ifindex", at.ifindex, "uplink", at.uplink)
}

// detachOthers takes the programs off interfaces that are no longer what they were.
func (p *interfaces) detachOthers(pods map[int]bool, found *node.Found, now time.Time) {
	for _, ifindex := range p.plane.attachedPods() {
		if !pods[ifindex] {
			p.detach(port{ifindex, false}, p.plane.detachPod, now)
		}
	}
	for _, ifindex := range p.plane.attachedUplinks() {
		if _, kept := found.Uplinks[ifindex]; !kept {
			p.detach(port{ifindex, true}, p.plane.detachUplink, now)
		}
	}
}

func (p *interfaces) detach(from port, detach func(int) error, now time.Time) {
	delete(p.attached, from)
	if err := detach(from.ifindex); err != nil {
		p.note(err.Error(), now)
		return
	}
	p.log.Info("detached", "ifindex", from.ifindex, "uplink", from.uplink)
}

func (p *interfaces) noteError(err error, now time.Time) {
	if err != nil {
		p.note(err.Error(), now)
	}
}

// note remembers since when something is missing.
func (p *interfaces) note(text string, now time.Time) {
	since, before := p.missing[text]
	if !before {
		since = now
	}
	p.late[text] = since
}

// tell says what has been missing for longer than patience, if that has changed.
func (p *interfaces) tell(missing map[string]time.Time, now time.Time) {
	var late []string
	for text, since := range missing {
		if now.Sub(since) >= patience {
			late = append(late, text)
		}
	}
	slices.Sort(late)
	if len(late) > 8 {
		late = append(late[:8], fmt.Sprintf("and %d more", len(late)-8))
	}
	if text := strings.Join(late, "; "); text != p.told {
		p.told = text
		p.problem(text)
	}
}
