// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bpffsSource is what MountBPFFS mounts, and so what says that a bpffs is ours.
const bpffsSource = "deltaplane"

// Cleanup removes all that deltaplane leaves in the kernel: pinned links and with them the programs, filters of the
// calling thread's network namespace, pinned maps of all layouts, the directory of pins, and the bpffs if MountBPFFS
// mounted it and nobody else has pins there. It returns what it removed, or would if dry, in words for people. What is
// gone already is fine.
func Cleanup(pinDir string, dry bool) (removed []string, err error) {
	c := cleaner{dry: dry}
	c.links(linksDir(pinDir))
	c.filters()
	dirs, err := mapsDirs(pinDir)
	c.note(err)
	for _, dir := range dirs {
		c.maps(dir)
	}
	if c.onlyOurs(pinDir) {
		c.directory(pinDir)
		c.mount(pinDir)
	}
	if err := errors.Join(c.failed...); err != nil {
		return c.removed, fmt.Errorf("remove all of deltaplane: %w", err)
	}
	return c.removed, nil
}

type cleaner struct {
	dry     bool
	removed []string
	failed  []error
}

func (c *cleaner) note(err error) { c.failed = append(c.failed, err) }

// remove does what it says, unless it is only to say it.
func (c *cleaner) remove(do func() error, format string, args ...any) {
	if !c.dry {
		if err := do(); err != nil {
			c.note(err)
			return
		}
	}
	c.removed = append(c.removed, fmt.Sprintf(format, args...))
}

// entries lists a directory of pins; none if it is not there. Every bpffs has two from the kernel, for debugging.
func (c *cleaner) entries(dir string) []os.DirEntry {
	list, err := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		c.note(err)
	}
	return slices.DeleteFunc(list, func(e os.DirEntry) bool { return e.Name() == "maps.debug" || e.Name() == "progs.debug" })
}

func (c *cleaner) links(dir string) {
	for _, e := range c.entries(dir) {
		path := filepath.Join(dir, e.Name())
		c.remove(func() error { return endLink(path) }, "%s", describeLink(path))
	}
	c.directory(dir)
}

// describeLink says what is pinned at path, and where it is attached.
func describeLink(path string) string {
	name := filepath.Base(path)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return "pinned program " + name
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return "link " + name
	}
	switch {
	case info.TCX() != nil:
		return fmt.Sprintf("program of interface %d (%s)", info.TCX().Ifindex, name)
	case info.XDP() != nil:
		return fmt.Sprintf("program of interface %d (%s)", info.XDP().Ifindex, name)
	case info.Cgroup() != nil:
		return fmt.Sprintf("socket program %s of cgroup %d", name, info.Cgroup().CgroupId)
	}
	return "link " + name
}

// filters removes those of kernels without tcx, whether their programs are pinned or not.
func (c *cleaner) filters() {
	interfaces, err := netlink.LinkList()
	c.note(err)
	for _, i := range interfaces {
		at := i.Attrs()
		for _, way := range directions {
			if ours, err := hasFilter(at.Index, way); err != nil || !ours {
				c.note(err)
				continue
			}
			c.remove(func() error { return detachFilter(at.Index, way) }, "filter %s of interface %s", filterName(way), at.Name)
		}
	}
}

func (c *cleaner) maps(dir string) {
	for _, e := range c.entries(dir) {
		path := filepath.Join(dir, e.Name())
		size := ""
		if m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true}); err == nil {
			size = fmt.Sprintf(" (room for %d)", m.MaxEntries())
			m.Close()
		}
		c.remove(func() error { return endLink(path) }, "map %s%s", e.Name(), size)
	}
	c.directory(dir)
}

// onlyOurs says if a directory holds nothing, once what is ours in it is gone.
func (c *cleaner) onlyOurs(pinDir string) bool {
	ours, err := mapsDirs(pinDir)
	c.note(err)
	ours = append(ours, linksDir(pinDir))
	for _, e := range c.entries(pinDir) {
		if !slices.Contains(ours, filepath.Join(pinDir, e.Name())) {
			return false
		}
	}
	return true
}

func (c *cleaner) directory(dir string) {
	if _, err := os.Stat(dir); err != nil || isMountPoint(dir) {
		return
	}
	c.remove(func() error { return os.Remove(dir) }, "directory %s", dir)
}

// mount unmounts the bpffs that the pins were in, if it is ours and empty.
func (c *cleaner) mount(pinDir string) {
	for _, at := range []string{pinDir, filepath.Dir(pinDir)} {
		if source, ok := mountedAt(at); !ok || source != bpffsSource {
			continue
		}
		others := 0
		for _, e := range c.entries(at) {
			if !c.dry || filepath.Join(at, e.Name()) != pinDir && at != pinDir {
				others++
			}
		}
		if others > 0 {
			continue
		}
		c.remove(func() error { return unix.Unmount(at, 0) }, "mount of a bpffs at %s", at)
	}
}

func isMountPoint(dir string) bool { _, ok := mountedAt(dir); return ok }

// mountedAt returns the source of the bpffs that is mounted at a directory.
func mountedAt(dir string) (source string, ok bool) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", false
	}
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == dir && f[2] == "bpf" {
			source, ok = f[0], true // the last is on top
		}
	}
	return source, ok
}
