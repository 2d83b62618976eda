// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
)

// Promise P7: numbers of facts grow, across sessions and where the clock goes back, and are in what is sealed.
func TestFactsAreNumbered(t *testing.T) {
	begun := uint64(time.Now().UnixMicro())
	w, before := &service{}, uint64(0)
	for i := range 100 {
		if i == 50 {
			w.highest += 1e15 // as one that was said by a watcher whose clock is ahead
		}
		var f schemas.Fact
		if err := proto.Unmarshal(w.number([]byte{}), &f); err != nil || f.GetNumber() <= before || f.GetNumber() < begun {
			t.Fatalf("number %d after %d (%v)", f.GetNumber(), before, err)
		}
		before = f.GetNumber()
	}
	s := &session{service: &service{}}
	for i, test := range []struct {
		number uint64
		old    bool
	}{{5, false}, {7, false}, {6, true}, {7, true}, {0, true}, {8, false}} {
		if old := s.order(&schemas.Fact{Number: test.number}); old != test.old {
			t.Errorf("message %d, of number %d, is old: %v", i, test.number, old)
		}
	}
	if s.highest != 8 {
		t.Errorf("it goes on above %d, want 8", s.highest)
	}
}

// stateOf returns the message of STATE about an object.
func (b *testBus) stateOf(ref *schemas.ObjectRef) (subject string, data []byte) {
	b.t.Helper()
	subject = schemas.StateSubject(ref.GetKind(), ref.GetNamespace(), ref.GetName())
	err := b.conn.Read(b.t.Context(), bus.ReadOptions{Stream: "STATE", Subjects: []string{subject}}, func(r bus.Record) error {
		data = r.Data
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return subject, data
}

// Promise P7: what another writes to STATE while a watcher leads is mended: a fact that was put back, what is no fact, and
// what no object is behind.
// Fault 13: somebody has write access to STATE.
func TestWhatAnotherWritesIsMended(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, seal.EncodePrivateKey(private), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	w := start(t, b.server.URL(), func(w *service) {
		onFolder(path)(w)
		w.settings.signingKey = key
		w.lookEvery = 50 * time.Millisecond
	})
	w.complete(t)
	subject, old := b.stateOf(&schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "cart"})
	want := map[string]string{"Service shop/cart": "81", "Complete state": "there"}
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 81))
	b.expect(want)
	put := func(subject string, data []byte) {
		t.Helper()
		if err := b.conn.Publish(subject, data); err != nil {
			t.Fatal(err)
		}
	}
	put(subject, old)
	b.expect(want)
	put(subject, []byte("no fact"))
	put(schemas.StateSubject("Service", "shop", "ghost"), []byte("no fact"))
	put(schemas.StateSubject("Cluster", "", "ghost"), []byte("no fact"))
	put("deltaplane.v1.state.strange.of_no_object.x", nil)
	want["Service shop/ghost"], want["Cluster ghost"] = "gone", "gone"
	want[" "] = "gone" // of no object: nothing reads it
	b.expect(want)
	if !strings.Contains(w.log.String(), "kind=foreign_message") {
		t.Error("nobody was told that somebody else writes to STATE")
	}
}
