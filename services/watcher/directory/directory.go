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

// Source reads Paths, files and folders, again and again.
type Source struct {
	Paths []string
	Log   *slog.Logger
}

// Run emits a list now and whenever a file changes, until ctx ends.
func (s *Source) Run(ctx context.Context, emit func(core.Input)) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %v for changes: %w; raise fs.inotify.max_user_instances", s.Paths, err)
	}
	defer notify.Close()
	reader := newReader(s.Paths)
	reread := time.NewTicker(rereadEvery)
	defer reread.Stop()
	for {
		s.watch(notify) // before reading, so that no change falls in between
		if list, changed := reader.read(); changed {
			emit(list)
		}
		if err := s.wait(ctx, notify, reread.C); err != nil {
			return nil
		}
	}
}

// watch adds all folders that are not watched yet.
func (s *Source) watch(notify *fsnotify.Watcher) {
	for _, folder := range folders(s.Paths) {
		if err := notify.Add(folder); err != nil {
			s.Log.Warn("changes in a folder are only seen every few seconds", "folder", folder, "error", err)
		}
	}
}

// wait returns when files have changed and are quiet again, or it is time to read anyway; or an error if ctx ends.
func (s *Source) wait(ctx context.Context, notify *fsnotify.Watcher, reread <-chan time.Time) error {
	var quiet, latest <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-reread:
			if quiet == nil {
				return nil
			}
		case <-quiet:
			return nil
		case <-latest:
			return nil
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
				return nil
			}
			s.Log.Warn("watching files", "error", err)
		}
	}
}
