// SPDX-License-Identifier: Apache-2.0

package virtual

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
)

// Options say which nodes there are and where their bus is.
type Options struct {
	URL   string
	Names []string
	// Issuer is the file of the key that signs the nodes' credentials, as a watcher does for those that join; CA the file of
	// the bus's certificates. Empty connects without.
	Issuer, CA string
	// TrustedKeys is the file of the keys that seal what nodes use; empty checks nothing. The nodes of a process share what
	// they have checked: on real nodes each batch costs one check, and thousands of these would only measure themselves.
	TrustedKeys string
	// Tick is how often each core is told of the time; a real one is every 100 ms.
	Tick time.Duration
	// Capacities of each node's maps; what is 0 has its usual size, which takes no memory until it is used.
	Capacities [abi.MapCount]uint32
}

// connectsAtOnce bounds the nodes that connect at the same time.
const connectsAtOnce = 64

// Fleet is some virtual nodes in this process.
type Fleet struct {
	options Options
	nodes   []*node
	counts  counts
	ledger  ledger
	trust   *keyfile.Trust
}

// New returns a fleet that doesn't run yet.
func New(o Options) (*Fleet, error) {
	f := &Fleet{options: o}
	if o.TrustedKeys != "" {
		var err error
		if f.trust, err = keyfile.OpenTrust(o.TrustedKeys, slog.New(slog.DiscardHandler)); err != nil {
			return nil, err
		}
	}
	for _, name := range o.Names {
		f.nodes = append(f.nodes, &node{name: name, fleet: f})
	}
	return f, nil
}

// Start connects all nodes.
func (f *Fleet) Start(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(connectsAtOnce)
	for _, n := range f.nodes {
		group.Go(func() error {
			if err := groupCtx.Err(); err != nil {
				return err
			}
			return n.start(ctx)
		})
	}
	return group.Wait()
}

// Stop ends all nodes, without a word.
func (f *Fleet) Stop() {
	var group errgroup.Group
	group.SetLimit(connectsAtOnce)
	for _, n := range f.nodes {
		group.Go(func() error { n.halt(); return nil })
	}
	_ = group.Wait()
}

// Restart ends all nodes and starts them again, with the maps as they were or with empty ones.
func (f *Fleet) Restart(ctx context.Context, keep bool) error {
	f.Stop()
	for _, n := range f.nodes {
		if !keep {
			n.maps = nil
		}
	}
	f.Reset()
	return f.Start(ctx)
}

// Whole returns how many nodes hold all that they have heard of, or have done so since they started.
func (f *Fleet) Whole() (whole int) {
	for _, n := range f.nodes {
		if n.current.Load() {
			whole++
		}
	}
	return whole
}

// Reset begins to count anew.
func (f *Fleet) Reset() {
	f.counts.reset()
	f.ledger.reset()
}

// Seen returns what was counted since the last Reset.
func (f *Fleet) Seen() Seen {
	s := f.ledger.seen()
	s.Counts = f.counts.values()
	s.Whole = f.Whole()
	return s
}
