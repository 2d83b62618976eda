// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"maps"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/schemas"
)

// Bus is a NATS server of the test's own, and what the newest facts on it are.
type Bus struct {
	URL string

	conn     *bus.Conn
	mu       sync.Mutex
	facts    map[string]*schemas.Fact
	sequence uint64
	told     int // facts about objects
}

// NewBus starts a server and follows its facts.
func NewBus(t *testing.T) *Bus {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	fatal(t, err)
	t.Cleanup(server.Shutdown)
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "test"})
	fatal(t, err)
	fatal(t, conn.EnsureStreams(t.Context(), 1, schemas.StateFacts))

	b := &Bus{URL: server.URL(), conn: conn, facts: map[string]*schemas.Fact{}}
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		options := bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState}}
		if err := conn.Follow(ctx, options, b.take); err != nil {
			t.Errorf("following the facts: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		following.Wait()
		conn.Close()
	})
	return b
}

// take keeps a fact, or forgets one that says that its object is gone.
func (b *Bus) take(r bus.Record) error {
	var fact schemas.Fact
	if err := proto.Unmarshal(r.Data, &fact); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sequence = r.Sequence
	if fact.GetComplete() == nil {
		b.told++
	}
	key := key(fact.GetObject().GetKind(), fact.GetObject().GetNamespace(), fact.GetObject().GetName())
	if fact.GetState() == nil {
		delete(b.facts, key)
	} else {
		b.facts[key] = &fact
	}
	return nil
}

// Facts returns the newest fact of each object that is there, by "Kind namespace/name".
func (b *Bus) Facts() map[string]*schemas.Fact {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.facts)
}

// Published returns the sequence of the newest fact, which every publication raises.
func (b *Bus) Published() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sequence
}

// Told counts the facts about objects. That STATE is complete is said again and again, however little changes.
func (b *Bus) Told() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told
}

func key(kind, namespace, name string) string { return kind + " " + namespace + "/" + name }
