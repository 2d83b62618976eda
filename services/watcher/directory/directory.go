// SPDX-License-Identifier: Apache-2.0

// Package directory is a source of objects: a folder of Kubernetes YAML whose files are the cluster. Each reading of
// the folder is a complete list, so what is taken out of the files is deleted.
//
// It promises that a file or document that can't be read changes nothing but itself: what the file held when it was
// last whole stays. Objects are taken as they are; only EndpointSlices are made, for Services with a selector and
// without slices of their own, from the Pods that have addresses. Workloads make no Pods here.
package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// How files are watched.
const (
	// quietFor is how long no file may change before the folder is read: an editor writes in several steps.
	quietFor = 20 * time.Millisecond
	// quietMost bounds how long changes may put off the reading.
	quietMost = 500 * time.Millisecond
	// rereadEvery finds what the system doesn't notify of, such as changes on network file systems, and folders
	// that come into being.
	rereadEvery = 5 * time.Second
)

// Source reads files and folders, again and again.
type Source struct {
	paths []string
	log   *slog.Logger
	asked chan chan struct{} // closed when the files were read, and what has changed is emitted
}

// New returns a Source of paths.
func New(paths []string, log *slog.Logger) *Source {
	return &Source{paths: paths, log: log, asked: make(chan chan struct{})}
}

// Away is nil: a folder that can't be read is an incomplete list.
func (s *Source) Away() error { return nil }

// Look has the files read at once. What they hold of an object, or don't, is emitted when it returns.
func (s *Source) Look(ctx context.Context, _ *schemas.ObjectRef) (core.Sighting, error) {
	read := make(chan struct{})
	select {
	case s.asked <- read:
	case <-ctx.Done():
		return core.Sighting{}, fmt.Errorf("read %v: %w", s.paths, ctx.Err())
	}
	select {
	case <-read:
		return core.Sighting{}, nil
	case <-ctx.Done():
		return core.Sighting{}, fmt.Errorf("read %v: %w", s.paths, ctx.Err())
	}
}

// Run emits a list now and whenever a file changes, until ctx ends. Nodes have no Leases here: none is lost.
func (s *Source) Run(ctx context.Context, _ map[string]bool, emit func(core.Input)) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %v for changes: %w; raise fs.inotify.max_user_instances", s.paths, err)
	}
	defer notify.Close()
	reader := newReader(s.paths)
	reread := time.NewTicker(rereadEvery)
	defer reread.Stop()
	var asked chan struct{}
	for {
		s.watch(notify) // before reading, so that no change falls in between
		if list, changed := reader.read(); changed {
			emit(list)
		}
		if asked != nil {
			close(asked)
		}
		if asked, err = s.wait(ctx, notify, reread.C); err != nil {
			return nil
		}
	}
}

// watch adds all folders that are not watched yet.
func (s *Source) watch(notify *fsnotify.Watcher) {
	for _, folder := range folders(s.paths) {
		if err := notify.Add(folder); err != nil {
			s.log.Warn("changes in a folder are only seen every few seconds", "folder", folder, "error", err)
		}
	}
}

// wait returns when files have changed and are quiet again, or it is time to read anyway, or someone asks, who is
// returned; or an error if ctx ends.
func (s *Source) wait(ctx context.Context, notify *fsnotify.Watcher, reread <-chan time.Time) (chan struct{}, error) {
	var quiet, latest <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case asked := <-s.asked:
			return asked, nil
		case <-reread:
			if quiet == nil {
				return nil, nil
			}
		case <-quiet:
			return nil, nil
		case <-latest:
			return nil, nil
		case event := <-notify.Events:
			if event.Op == fsnotify.Chmod {
				continue
			}
			quiet = time.After(quietFor)
			if latest == nil {
				latest = time.After(quietMost)
			}
		case err := <-notify.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				return nil, nil
			}
			s.log.Warn("watching files", "error", err)
		}
	}
}
