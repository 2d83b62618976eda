// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// Before Linux 6.6 the programs are filters of the clsact queueing discipline. Ours are known by priority, handle
// and name; the program is pinned where its link would be, so that AttachedPods and RemovePins find them.
const (
	filterPriority = 0xd317
	filterHandle   = 1
)

func attachFilter(ifindex int, dir direction, program *ebpf.Program, pin string) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("add a clsact queueing discipline (it needs the kernel module sch_ingress): %w", err)
	}
	filter := ourFilter(ifindex, dir)
	filter.Fd = program.FD()
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("replace our filter (it needs the kernel module cls_bpf): %w", err)
	}
	if pin == "" {
		return nil
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the pin of the earlier program: %w", err)
	}
	if err := program.Pin(pin); err != nil {
		return fmt.Errorf("pin the program: %w", err)
	}
	return nil
}

// detachFilter leaves the queueing discipline: it may be another's, and does nothing by itself.
func detachFilter(ifindex int, dir direction) error {
	err := netlink.FilterDel(ourFilter(ifindex, dir))
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

func ourFilter(ifindex int, dir direction) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if dir.ingress {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: parent, Handle: filterHandle,
			Priority: filterPriority, Protocol: syscall.ETH_P_ALL,
		},
		Name:         "deltaplane_" + dir.name,
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
		ifindex, dir, ok := parsePodPin(e.Name())
		if !ok {
			continue
		}
		program, err := ebpf.LoadPinnedProgram(podPin(linksDir(pinDir), ifindex, dir), nil)
		if err != nil {
			continue // a link
		}
		failed = append(failed, program.Close(), detachFilter(ifindex, dir))
	}
	return errors.Join(failed...)
}

func podPin(dir string, ifindex int, d direction) string {
	return filepath.Join(dir, fmt.Sprintf("pod-%d-%s", ifindex, d.name))
}

// parsePodPin reads the name that podPin makes.
func parsePodPin(name string) (ifindex int, _ direction, ok bool) {
	for _, d := range directions {
		if _, err := fmt.Sscanf(name, "pod-%d-"+d.name, &ifindex); err == nil && name == filepath.Base(podPin("", ifindex, d)) {
			return ifindex, d, true
		}
	}
	return 0, direction{}, false
}
