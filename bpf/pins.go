// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pins lie in two directories: maps-LAYOUT/NAME, and links/HOOK for sockets, links/KIND-IFINDEX-PROGRAM for interfaces.
// What has "-next" at its end is about to take another's place; left over by a crash, it is nothing.

// layout is the version of the tables as a whole. They point at one another, so where the meaning of some changes this
// number grows, and TakeOver leads from the last to this one. A map whose values alone have other bytes, one by one, is
// converted instead; see earlierMaps. Layout 1 lay in "maps".
const layout = 2

func mapsDir(pinDir string) string  { return filepath.Join(pinDir, "maps-"+strconv.Itoa(layout)) }
func linksDir(pinDir string) string { return filepath.Join(pinDir, "links") }

// MountBPFFS makes dir a bpffs if it isn't one, or within one. Unmounting it is the caller's.
func MountBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the mount point of a bpffs: %w", err)
	}
	if onBPFFS(dir) {
		return nil
	}
	if err := unix.Mount(bpffsSource, dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs at %s (it needs CAP_SYS_ADMIN; mount it beforehand otherwise): %w", dir, err)
	}
	return nil
}

func onBPFFS(dir string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(dir, &stat) == nil && stat.Type == unix.BPF_FS_MAGIC
}

// checkBPFFS says what to do if a directory that is to hold pins, or the one it will be in, is on no bpffs.
func checkBPFFS(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		_, err := os.Stat(at)
		if errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for the bpffs that is to hold pins (by default it is root's alone; "+
				"another user needs a folder of its own there): %w", err)
		}
		if onBPFFS(at) {
			return nil
		}
		return fmt.Errorf("%s is on no bpffs, so nothing can be pinned there: mount -t bpf bpf %s", dir, dir)
	}
}

// RemovePins removes everything that Load and the Attach methods leave under pinDir: the programs detach and the
// maps go once nothing else holds them. It touches nobody else's pins. A missing directory is fine.
func RemovePins(pinDir string) error {
	dirs, err := mapsDirs(pinDir)
	failed := []error{err, removeFilters(pinDir)}
	for _, dir := range append([]string{linksDir(pinDir)}, dirs...) {
		failed = append(failed, removePinned(dir))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("remove the pins in %s: %w", pinDir, err)
	}
	return nil
}
