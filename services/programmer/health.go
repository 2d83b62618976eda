// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/core"
	"github.com/deltaplane/deltaplane/services/programmer/healthcheck"
)

// health is what the loop last knew of itself, for those who ask from other goroutines.
type health struct {
	mu       sync.Mutex
	at       time.Time
	notReady error
	notSync  error
	entries  [abi.MapCount]int
	current  time.Time // when the maps last held all that was heard of; the start, if they never did
	drains   bool
	flows    bpf.Swept
	exits    exits
}

// stuckAfter is how long the loop may be busy until the process counts as beyond help. Loading a million entries takes
// a few seconds.
const stuckAfter = time.Minute

func (h *health) update(c *core.Core) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.notReady, h.notSync, h.entries = time.Now(), c.Ready(), c.Synced(), c.Entries()
	if c.Current() || h.current.IsZero() {
		h.current = h.at
	}
	if state := c.State(); state != nil {
		h.drains = state.Tables(model.LayerNode).Selves[model.SelfKey{}].Draining
	}
}

// state is what load balancers are told.
func (h *health) state() healthcheck.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current.IsZero() {
		return healthcheck.State{}
	}
	return healthcheck.State{Updated: h.current, Waiting: time.Since(h.current), Draining: h.drains}
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

// swept keeps what the last sweep found.
func (h *health) swept(s bpf.Swept) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flows = s
}

func (h *health) lastSwept() bpf.Swept {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.flows
}

// leads keeps what the last look at the interfaces found.
func (h *health) leads(e exits) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exits = e
}

func (h *health) lastExits() exits {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exits
}
