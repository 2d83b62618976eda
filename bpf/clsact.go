// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// Before Linux 6.6 the programs are filters of the clsact queueing discipline. Ours are known by their names; the
// program is pinned where its link would be, so that AttachedPods and RemovePins find them.

// filterPlace is where a filter lies.
type filterPlace struct {
	priority uint16
	handle   uint32
}

// filterPlaces are where ours may be. The first priority is asked before all others (see attachWay); others may have
// filters there too, under other handles. The second is for interfaces where that priority has filters of another
// kind than BPF.
var filterPlaces = []filterPlace{{1, 0xd317}, {0xd317, 1}}

func attachFilter(ifindex int, dir direction, program *ebpf.Program, pin string) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("add a clsact queueing discipline (it needs the kernel module sch_ingress): %w", err)
	}
	if err := replaceFilter(ifindex, dir, program); err != nil {
		return fmt.Errorf("replace our filter (it needs the kernel module cls_bpf): %w", err)
	}
	if pin == "" {
		return nil
	}
	if err := repin(program, pin); err != nil {
		return fmt.Errorf("pin the program: %w", err)
	}
	return nil
}

// replaceFilter puts our filter into the first place that takes it, and off the others.
func replaceFilter(ifindex int, dir direction, program *ebpf.Program) error {
	var refused []error
	for i, place := range filterPlaces {
		filter := ourFilter(ifindex, dir, place)
		filter.Fd = program.FD()
		if err := netlink.FilterReplace(filter); err != nil {
			refused = append(refused, err)
			continue
		}
		return removeFilter(ifindex, dir, slices.Delete(slices.Clone(filterPlaces), i, i+1))
	}
	return errors.Join(refused...)
}

// detachFilter leaves the queueing discipline: it may be another's, and does nothing by itself.
func detachFilter(ifindex int, dir direction) error { return removeFilter(ifindex, dir, filterPlaces) }

// removeFilter takes off what is in our places and has our name. What isn't there is fine.
func removeFilter(ifindex int, dir direction, places []filterPlace) error {
	list, err := filtersAt(ifindex, dir)
	if err != nil {
		return err
	}
	var failed []error
	for _, filter := range list {
		at := filterPlace{filter.Priority, filter.Handle}
		if filter.Name == filterName(dir) && slices.Contains(places, at) {
			failed = append(failed, ignoreGone(netlink.FilterDel(filter)))
		}
	}
	return errors.Join(failed...)
}

// hasFilter says if an interface has our filter.
func hasFilter(ifindex int, dir direction) (bool, error) {
	list, err := filtersAt(ifindex, dir)
	return slices.ContainsFunc(list, func(f *netlink.BpfFilter) bool { return f.Name == filterName(dir) }), err
}

// filtersAt lists the BPF filters of one way through an interface; none if that is gone.
func filtersAt(ifindex int, dir direction) ([]*netlink.BpfFilter, error) {
	at := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	list, err := netlink.FilterList(at, dir.parent())
	if err = ignoreGone(err); err != nil && !errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("list the filters of interface %d: %w", ifindex, err)
	}
	var filters []*netlink.BpfFilter
	for _, f := range list {
		if filter, ok := f.(*netlink.BpfFilter); ok {
			filters = append(filters, filter)
		}
	}
	return filters, nil
}

func filterName(dir direction) string { return "deltaplane_" + dir.name }

func (d direction) parent() uint32 {
	if d.ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

func ourFilter(ifindex int, dir direction, place filterPlace) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: dir.parent(), Handle: place.handle,
			Priority: place.priority, Protocol: syscall.ETH_P_ALL,
		},
		Name:         filterName(dir),
		DirectAction: true,
	}
}

// removeFilters takes off the filters whose programs are pinned. Links go with their pins.
func removeFilters(pinDir string) error {
	entries, err := os.ReadDir(linksDir(pinDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	failed := []error{err}
	for _, e := range entries {
		at, dir, ok := parsePortPin(e.Name())
		if !ok {
			continue
		}
		program, err := ebpf.LoadPinnedProgram(portPin(linksDir(pinDir), at, dir), nil)
		if err != nil {
			continue // a link
		}
		failed = append(failed, program.Close(), detachFilter(at.ifindex, dir))
	}
	return errors.Join(failed...)
}

func portPin(dir string, at port, d direction) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d-%s", at.kind, at.ifindex, d.name))
}

// parsePortPin reads the name that portPin makes.
func parsePortPin(name string) (at port, _ direction, ok bool) {
	for _, d := range directions {
		at := port{kind: d.kind}
		if _, err := fmt.Sscanf(name, string(d.kind)+"-%d-"+d.name, &at.ifindex); err == nil && name == filepath.Base(portPin("", at, d)) {
			return at, d, true
		}
	}
	return port{}, direction{}, false
}
