// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/deltaplane/deltaplane/internal/cgroup"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// DefaultName is the lab's name if none is given.
const DefaultName = "lab"

// stateRoot has one folder for each lab. It is on a memory file system: a lab doesn't outlive a reboot. Who isn't root
// has labs of their own.
func stateRoot() string {
	if uid := os.Geteuid(); uid != 0 {
		return filepath.Join(os.TempDir(), fmt.Sprintf("deltaplane-%d", uid))
	}
	return "/run/deltaplane"
}

// DownCommand is what a person types to take the lab down.
func DownCommand(name string) string { return "deltaplane lab down" + NameFlag(name) }

// NameFlag is how commands are told which lab, with a space before it; empty for the default.
func NameFlag(name string) string {
	if name == "" || name == DefaultName {
		return ""
	}
	return " --name " + name
}

// dir is a lab's folder: all that a lab leaves on the machine but its cgroup.
type dir string

var nameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

func dirOf(name string) (dir, error) {
	if name == "" {
		name = DefaultName
	}
	if !nameForm.MatchString(name) {
		return "", fmt.Errorf("lab name %q: want up to 32 small letters, digits and dashes", name)
	}
	return dir(filepath.Join(stateRoot(), name)), nil
}

func cgroupOf(name string) (string, error) {
	root, err := cgroup.Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "deltaplane-"+name), nil
}

func (d dir) name() string       { return filepath.Base(string(d)) }
func (d dir) namespaces() string { return filepath.Join(string(d), "netns") }
func (d dir) manifests() string  { return filepath.Join(string(d), "manifests") }
func (d dir) logs() string       { return filepath.Join(string(d), "logs") }
func (d dir) bus() string        { return filepath.Join(string(d), "bus") }
func (d dir) trust() string      { return filepath.Join(string(d), "trust") }
func (d dir) bpf() string        { return filepath.Join(string(d), "bpf") }
func (d dir) socket() string     { return filepath.Join(string(d), "control.sock") }
func (d dir) log() string        { return string(d) + ".log" }
func (d dir) state() string      { return filepath.Join(string(d), "state.json") }

// State is what other processes need to know of a lab.
type State struct {
	Name    string        `json:"name"`
	Process space.Process `json:"process"` // that runs the lab
	Bus     string        `json:"bus"`     // URL, from outside the lab's namespaces
	// Credentials and CA are files for people who connect to the bus; empty if it isn't the lab's own.
	Credentials string  `json:"credentials,omitempty"`
	CA          string  `json:"ca,omitempty"`
	Logs        string  `json:"logs"`
	Places      []Place `json:"places"`
	// Services are the processes that the lab started, by name.
	Services map[string]space.Process `json:"services"`
}

// Place is somewhere commands can run: a pod, a node or outside.
type Place struct {
	Name      string `json:"name"` // NS/POD, node/NAME or outside
	Namespace string `json:"namespace"`
	Cgroup    string `json:"cgroup"`
}

// claim makes the folder, or says who has it.
func (d dir) claim() error {
	if state, err := d.readState(); err == nil && state.Process.Alive() {
		return fmt.Errorf("lab %s is up already, run by process %d; take it down with: %s", d.name(), state.Process.PID, DownCommand(d.name()))
	} else if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab %s has left things behind in %s; clean up with: %s", d.name(), d, DownCommand(d.name()))
	}
	for _, path := range []string{d.namespaces(), d.manifests(), d.logs()} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("make the lab's folder: %w", err)
		}
	}
	self, err := space.ProcessOf(os.Getpid())
	if err != nil {
		return err
	}
	return d.writeState(State{Name: d.name(), Process: self})
}

func (d dir) writeState(state State) error {
	data, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	return writeFile(d.state(), data)
}

func (d dir) readState() (State, error) {
	var state State
	data, err := os.ReadFile(d.state())
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return state, fmt.Errorf("read %s: %w", d.state(), err)
	}
	return state, nil
}

// writeFile replaces a file as a whole: readers see the old or the new one.
func writeFile(path string, data []byte) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// ReadState returns the state of the lab with this name. It is an error if there is none or its process has ended.
func ReadState(name string) (State, error) {
	d, err := dirOf(name)
	if err != nil {
		return State{}, err
	}
	state, err := d.readState()
	if errors.Is(err, fs.ErrNotExist) {
		return state, fmt.Errorf("there is no lab %q; start one with: deltaplane lab up%s -f PATH", d.name(), NameFlag(d.name()))
	}
	if err == nil && !state.Process.Alive() {
		err = fmt.Errorf("lab %q has ended without cleaning up; do it with: %s", d.name(), DownCommand(d.name()))
	}
	return state, err
}

// Running returns the states of all labs that run here.
func Running() []State {
	var running []State
	files, err := filepath.Glob(filepath.Join(stateRoot(), "*", "state.json"))
	if err != nil {
		return nil // the pattern is fixed and good
	}
	for _, file := range files {
		if state, err := dir(filepath.Dir(file)).readState(); err == nil && state.Process.Alive() {
			running = append(running, state)
		}
	}
	return running
}

// Down ends the lab with this name if it runs, and removes whatever it or a crashed one has left. It reports whether
// there was anything.
func Down(ctx context.Context, name string) (bool, error) {
	if name == "" {
		name = DefaultName
	}
	d, err := dirOf(name)
	if err != nil {
		return false, err
	}
	_, noDir := os.Stat(string(d))
	_, noLog := os.Stat(d.log())
	cgroup := ""
	if os.Geteuid() == 0 { // without root a lab has no cgroup
		if cgroup, err = cgroupOf(name); err != nil {
			return false, err
		}
	}
	if _, noCgroup := os.Stat(cgroup); noDir != nil && noCgroup != nil && noLog != nil {
		return false, nil
	}
	if state, err := d.readState(); err == nil && state.Process.PID != os.Getpid() {
		if err := end(ctx, state.Process); err != nil {
			return true, err
		}
		for _, process := range state.Services {
			if err := process.Signal(syscall.SIGKILL); err != nil {
				return true, err
			}
		}
	}
	return true, errors.Join(space.OpenCgroup(cgroup).Remove(ctx), space.Clear(string(d)), space.Clear(d.log()))
}

// DownEnded takes down the labs whose names begin with a prefix and whose processes have ended without doing so: tests that
// were killed leave such.
func DownEnded(ctx context.Context, prefix string) (err error) {
	files, _ := filepath.Glob(filepath.Join(stateRoot(), prefix+"*", "state.json")) // fails only for a bad pattern
	for _, file := range files {
		d := dir(filepath.Dir(file))
		if state, unread := d.readState(); unread == nil && !state.Process.Alive() {
			_, failed := Down(ctx, d.name())
			err = errors.Join(err, failed)
		}
	}
	return err
}

// end asks a lab's process to end, which takes the lab down, and kills it if it doesn't.
func end(ctx context.Context, process space.Process) error {
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	gone := func() (bool, error) { return !process.Alive(), nil }
	if space.Poll(patience, 20*time.Millisecond, gone) == nil {
		return nil
	}
	if err := process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return space.Poll(ctx, 20*time.Millisecond, gone)
}

// LogFile opens what a lab's own process says when nobody reads it; Down removes it. It is beside the lab's folder,
// which isn't there yet.
func LogFile(name string) (*os.File, error) {
	d, err := dirOf(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(stateRoot(), 0o755); err != nil {
		return nil, fmt.Errorf("open the lab's log: %w", err)
	}
	file, err := os.OpenFile(d.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lab's log: %w", err)
	}
	return file, nil
}
