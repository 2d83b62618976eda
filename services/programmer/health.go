// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

// health is what the loop last knew of itself, for those who ask from other goroutines.
type health struct {
	mu       sync.Mutex
	at       time.Time
	notReady error
	notSync  error
	entries  [abi.MapCount]int
}

// stuckAfter is how long the loop may be busy until the process counts as beyond help. Loading a million entries takes
// a few seconds.
const stuckAfter = time.Minute

func (h *health) update(c *core.Core) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.notReady, h.notSync, h.entries = time.Now(), c.Ready(), c.Synced(), c.Entries()
}

func (h *health) alive() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if busy := time.Since(h.at); !h.at.IsZero() && busy > stuckAfter {
		return fmt.Errorf("busy for %s", busy.Round(time.Second))
	}
	return nil
}

func (h *health) ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() {
		return fmt.Errorf("the maps have not been read yet")
	}
	return h.notReady
}

func (h *health) synced() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.notSync
}

func (h *health) counted() [abi.MapCount]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.entries
}
