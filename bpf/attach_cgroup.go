// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// hook is one socket hook: the program's name, where it goes, and its link once attached.
type hook struct {
	name   string
	attach ebpf.AttachType
	since  string // the Linux that brought it
	link   link.Link
}

func socketHooks() []hook {
	return []hook{
		// What a reply needs comes before what makes replies.
		{name: "recvmsg4", attach: ebpf.AttachCGroupUDP4Recvmsg, since: "5.2"},
		{name: "recvmsg6", attach: ebpf.AttachCGroupUDP6Recvmsg, since: "5.2"},
		{name: "getpeername4", attach: ebpf.AttachCgroupInet4GetPeername, since: "5.8"},
		{name: "getpeername6", attach: ebpf.AttachCgroupInet6GetPeername, since: "5.8"},
		{name: "sendmsg4", attach: ebpf.AttachCGroupUDP4Sendmsg, since: "4.18"},
		{name: "sendmsg6", attach: ebpf.AttachCGroupUDP6Sendmsg, since: "4.18"},
		{name: "bind4", attach: ebpf.AttachCGroupInet4Bind, since: "4.17"},
		{name: "bind6", attach: ebpf.AttachCGroupInet6Bind, since: "4.17"},
		{name: "connect4", attach: ebpf.AttachCGroupInet4Connect, since: "4.17"},
		{name: "connect6", attach: ebpf.AttachCGroupInet6Connect, since: "4.17"},
	}
}

func (h *hook) close() {
	if h.link != nil {
		h.link.Close()
		h.link = nil
	}
}

// AttachCgroup gives the sockets of a cgroup (version 2) and of all below it the socket programs. Others'
// programs there go on. Links of an earlier run are kept and given the new programs; one that is on another
// cgroup moves to this one.
func (d *Dataplane) AttachCgroup(path string) error {
	id, err := cgroupID(path)
	if err != nil {
		return err
	}
	if d.TakesOver() {
		d.later = append(d.later, func() error { return d.AttachCgroup(path) })
		return nil
	}
	for i := range d.hooks {
		h := &d.hooks[i]
		program := d.sockets.Programs[h.name]
		fits := func(info *link.Info) bool {
			at := info.Cgroup()
			return at != nil && at.CgroupId == id
		}
		attach := func() (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: path, Attach: h.attach, Program: program})
		}
		h.close()
		if h.link, err = keepLink(d.linkPin(h.name), program, fits, attach); err != nil {
			return fmt.Errorf("attach %s to the cgroup %s: %w", h.name, path, err)
		}
	}
	return nil
}

func (d *Dataplane) linkPin(name string) string {
	if d.pinDir == "" {
		return ""
	}
	return filepath.Join(linksDir(d.pinDir), name)
}

// cgroupID returns what the kernel calls a cgroup: the inode of its directory.
func cgroupID(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("open the cgroup whose sockets are to reach Services: %w", err)
	}
	if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err != nil || !info.IsDir() {
		return 0, fmt.Errorf("%s is no cgroup: find the version 2 hierarchy in /proc/mounts (type cgroup2)", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s has no inode", path)
	}
	return stat.Ino, nil
}
