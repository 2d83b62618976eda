// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// nextSuffix ends the name of a pin that is about to take another's place.
const nextSuffix = "-next"

// pinner is a map, program or link.
type pinner interface{ Pin(path string) error }

// repin pins what is to be at path from now on, in place of what was there if anything was. There is no moment without.
func repin(what pinner, path string) error {
	next := path + nextSuffix
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the pin that a crash left: %w", err)
	}
	if err := what.Pin(next); err != nil {
		return fmt.Errorf("pin %s: %w", next, err)
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(fmt.Errorf("exchange the pin %s: %w", path, err), os.Remove(next))
	}
	return nil
}

// removeNext removes what a crash left of an exchange in a directory.
func removeNext(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the pins: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), nextSuffix) {
			if err := endLink(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove what a crash left: %w", err)
			}
		}
	}
	return nil
}

// exchangePrograms gives each pinned link, and each pinned filter, the present program of its name. One whose
// interface or cgroup is gone goes too.
func (d *Dataplane) exchangePrograms() error {
	if d.pinDir == "" {
		return nil
	}
	dir := linksDir(d.pinDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the pinned links: %w", err)
	}
	known := map[string]bool{}
	for _, h := range socketHooks() {
		known[h.name] = true
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		at, way, isPort := parsePortPin(e.Name())
		switch {
		case isPort:
			err = d.exchangePort(path, at, way)
		case isWirePin(e.Name()):
			err = d.exchangeWire(path)
		case known[e.Name()]:
			err = exchangeLink(path, d.program(e.Name()))
		default:
			err = nil
		}
		if err != nil {
			return fmt.Errorf("exchange the program of %s: %w", path, err)
		}
	}
	return nil
}

func (d *Dataplane) exchangePort(path string, at port, way direction) error {
	program, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return exchangeLink(path, d.program(way.name))
	}
	if err := program.Close(); err != nil {
		return err
	}
	if ours, err := hasFilter(at.ifindex, way); err != nil || !ours {
		return errors.Join(err, os.Remove(path))
	}
	return attachFilter(at.ifindex, way, d.program(way.name), path)
}

func exchangeLink(path string, program *ebpf.Program) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	err = l.Update(program)
	if err != nil && ignoreGone(err) == nil {
		return endLink(path)
	}
	return err
}
