// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Cgroup is a directory of the cgroup v2 hierarchy.
type Cgroup struct{ path string }

// NewCgroup makes the cgroup at path, which is below cgroup.Root, if it isn't there.
func NewCgroup(path string) (*Cgroup, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return &Cgroup{path}, nil
}

// OpenCgroup returns the cgroup at path.
func OpenCgroup(path string) *Cgroup { return &Cgroup{path} }

// Path returns the cgroup's directory.
func (c *Cgroup) Path() string { return c.path }

// Processes lists the processes in the cgroup and below.
func (c *Cgroup) Processes() ([]string, error) {
	var pids []string
	err := c.walk(func(dir string) error {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		pids = append(pids, strings.Fields(string(data))...)
		return err
	})
	return pids, err
}

// Remove kills what is left in the cgroup and below, waits until it is gone, and removes the directories. It is no
// error if the cgroup isn't there.
func (c *Cgroup) Remove(ctx context.Context) error {
	if _, err := os.Stat(c.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Since Linux 5.14 one write kills all.
	if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		if err := c.killEach(); err != nil {
			return err
		}
	}
	return Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		err := c.removeEmpty()
		if err != nil && !errors.Is(err, errBusy) {
			return false, err
		}
		return err == nil, nil
	})
}

var errBusy = errors.New("processes are left")

func (c *Cgroup) removeEmpty() error {
	pids, err := c.Processes()
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", c.path, err)
	}
	if len(pids) > 0 {
		return errBusy
	}
	var dirs []string
	if err := c.walk(func(dir string) error { dirs = append(dirs, dir); return nil }); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", c.path, err)
	}
	slices.Reverse(dirs) // what is below first
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errBusy // a process that has just ended holds it a moment longer
		}
	}
	return nil
}

func (c *Cgroup) walk(each func(dir string) error) error {
	return filepath.WalkDir(c.path, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		return each(path)
	})
}

// Poll calls f until it is done, fails or ctx ends, with a pause in between.
func Poll(ctx context.Context, pause time.Duration, f func() (done bool, err error)) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
