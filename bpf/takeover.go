// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// older is what an installation of another layout left pinned. Its programs go on with its maps until TakeOver.
type older struct {
	dirs  []string
	how   uint32 // ADOPT_
	flows *ebpf.Map
}

func (o *older) exists() bool { return len(o.dirs) > 0 }

func (o *older) close() {
	if o.flows != nil {
		o.flows.Close()
	}
	*o = older{}
}

// adoptableFlows are the layouts of flows that programs can take over, and the map's name in the programs.
var adoptableFlows = map[string]struct {
	how  uint32
	name string
}{
	"flows_v2": {adoptSame, "old_flows"},
	"flows_v1": {adoptV1, "old_v1_flows"},
}

func (o *older) adoption() adoption {
	for _, flows := range adoptableFlows {
		if flows.how == o.how {
			return adoption{how: o.how, maps: map[string]*ebpf.Map{flows.name: o.flows}}
		}
	}
	return adoption{}
}

// mapsDirs lists the directories of maps of all layouts.
func mapsDirs(pinDir string) ([]string, error) {
	entries, err := os.ReadDir(pinDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the pins: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		number, numbered := strings.CutPrefix(e.Name(), "maps-")
		if _, err := strconv.ParseUint(number, 10, 16); e.Name() == "maps" || numbered && err == nil {
			dirs = append(dirs, filepath.Join(pinDir, e.Name()))
		}
	}
	return dirs, nil
}

// openOlder finds what other layouts left, and the flows of theirs that can be taken over.
func openOlder(pinDir string, log *slog.Logger) (older, error) {
	var o older
	if pinDir == "" {
		return o, nil
	}
	dirs, err := mapsDirs(pinDir)
	if err != nil {
		return o, err
	}
	for _, dir := range dirs {
		if dir == mapsDir(pinDir) {
			continue
		}
		o.dirs = append(o.dirs, dir)
		for name, flows := range adoptableFlows {
			if o.flows != nil {
				break
			}
			m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
			if err == nil {
				o.how, o.flows = flows.how, m
			}
		}
	}
	if o.exists() {
		log.Info("an installation of another layout is to be taken over: its programs go on until the tables are filled",
			"maps", o.dirs, "flows", o.flows != nil)
	}
	return o, nil
}

// TakesOver says if programs of another layout, with tables of their own, are still in place. Until TakeOver the Attach
// methods only note what is to be attached.
func (d *Dataplane) TakesOver() bool { return d.older.exists() }

// TakeOver exchanges the programs of another layout for the present ones. Call it, always, once the tables are filled for
// the first time: it does nothing if there is nothing to take over. Flows go on: programs that adopt come first, which
// look for what they lack among the old flows; then the rest is copied, and the programs are exchanged for some that
// don't adopt. What was of the other layout is removed at the end. After a crash at any step it begins again.
func (d *Dataplane) TakeOver() error {
	if !d.TakesOver() {
		return nil
	}
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"exchange for adopting programs", d.exchangePrograms},
		{"attach what was to be attached", d.attachLater},
		{"copy flows", d.copyOldFlows},
		{"load programs", func() error { return d.loadPrograms(adoption{}) }},
		{"exchange programs", d.exchangePrograms},
		{"remove the old maps", d.removeOlder},
	} {
		if err := d.at(s.name); err != nil {
			return err
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("take over from an installation of another layout: %s: %w", s.name, err)
		}
	}
	d.log.Info("an installation of another layout was taken over")
	return d.at("end")
}

// attachLater attaches what was to be while the tables were filled.
func (d *Dataplane) attachLater() error {
	dirs := d.older.dirs
	d.older.dirs = nil // so that it is done now
	defer func() { d.older.dirs = dirs }()
	var failed []error
	for _, attach := range d.later {
		failed = append(failed, attach())
	}
	if err := errors.Join(failed...); err != nil {
		// Interfaces come and go; who attaches asks again.
		d.log.Warn("not all could be attached", "error", err)
	}
	d.later = nil
	return nil
}

// v1Flow is struct v1_flow of include/adopt.h.
type v1Flow struct {
	Addr       [16]byte
	Backend    uint32
	Sequence   uint32
	Port       [2]byte
	ClientPort [2]byte
	Closing    uint8
	_          [3]uint8
}

func (d *Dataplane) copyOldFlows() error {
	switch d.older.how {
	case adoptSame:
		return copyEntries(d.older.flows, d.maps[flowsMap], nil)
	case adoptV1:
		return d.copyV1Flows()
	}
	return nil
}

// copyV1Flows is adopt_flow of include/adopt.h for all that programs haven't adopted.
func (d *Dataplane) copyV1Flows() error {
	now, err := NowSeconds()
	if err != nil {
		return err
	}
	return eachEntry(d.older.flows, func(k, v []byte) error {
		key, old := view[abi.Tuple](k, 1)[0], view[v1Flow](v, 1)[0]
		flow := abi.Flow{
			Addr: old.Addr, Sequence: old.Sequence, Seen: now, Port: old.Port, OtherPort: old.ClientPort, State: abi.FlowAnswered,
		}
		at, port := key.Source, key.SourcePort
		if key.Leaving == 0 {
			flow.State |= abi.FlowForward
			at, port = old.Addr, old.Port
		}
		if old.Closing != 0 {
			flow.State |= abi.FlowFIN
		}
		var backend abi.Backend
		err := d.Map(abi.Backends).Lookup(old.Backend, bytesOf(&backend))
		if ignoreMissing(err) != nil {
			return err
		}
		if err == nil && backend.Addr == at && backend.Port == port {
			flow.Backend, flow.Set = old.Backend, backend.Set
		}
		return ignoreExisting(d.maps[flowsMap].Update(bytesOf(&key), bytesOf(&flow), ebpf.UpdateNoExist))
	})
}

func (d *Dataplane) removeOlder() error {
	for _, dir := range d.older.dirs {
		if err := removePinned(dir); err != nil {
			return err
		}
	}
	d.older.close()
	return nil
}

// removePinned removes a directory of pins.
func removePinned(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the pins: %w", err)
	}
	for _, e := range entries {
		if err := endLink(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove the pin %s: %w", filepath.Join(dir, e.Name()), err)
		}
	}
	return os.Remove(dir)
}
