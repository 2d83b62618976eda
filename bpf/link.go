// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// keepLink gives what the link pinned at path attaches the program, so that there is no moment without one. If
// there is no such link, or it is attached elsewhere (fits says false), attach makes another, which takes the old one's
// pin. An empty path pins nothing.
func keepLink(path string, program *ebpf.Program, fits func(*link.Info) bool, attach func() (link.Link, error)) (link.Link, error) {
	old, err := openLink(path)
	if err != nil {
		return nil, err
	}
	if old != nil && linkFits(old, fits) {
		if err := old.Update(program); err != nil {
			old.Close()
			return nil, fmt.Errorf("exchange the program of the link %s: %w", path, err)
		}
		return old, nil
	}
	made, err := attach()
	if err != nil {
		return nil, errors.Join(err, closeLink(old))
	}
	if path == "" {
		return made, nil
	}
	if err := repin(made, path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the link %s: %w", path, err), made.Close(), closeLink(old))
	}
	if err := closeLink(old); err != nil {
		return nil, errors.Join(fmt.Errorf("let go of the old link %s: %w", path, err), made.Close())
	}
	return made, nil
}

func openLink(path string) (link.Link, error) {
	if path == "" {
		return nil, nil
	}
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	return l, nil
}

func closeLink(l link.Link) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

func linkFits(l link.Link, fits func(*link.Info) bool) bool {
	info, err := l.Info()
	return err == nil && fits(info)
}

// endLink detaches the link pinned at path at once, where removing the pin alone would do so later, and removes
// the pin. No such pin, or one of something else than a link, is fine.
func endLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		err = errors.Join(ignoreGone(l.Detach()), l.Close())
	} else {
		err = nil
	}
	if gone := os.Remove(path); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// ignoreGone passes over what detaching says when the interface or cgroup has gone before.
func ignoreGone(err error) error {
	if errors.Is(err, syscall.ENOLINK) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
