// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// warm waits until the watcher could lead.
func (w *watcher) warm(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		if s, _ := w.stands(); !s.warm {
			return fmt.Errorf("not warm: %+v", s)
		}
		return nil
	})
}

func (w *watcher) leading() bool {
	s, _ := w.stands()
	return s.leading
}

// pair starts two watchers on one folder, of which the first leads.
func pair(t *testing.T, b *testBus, path string) (leader, standby *watcher) {
	t.Helper()
	leader = start(t, b.server.URL(), onFolder(path))
	leader.complete(t)
	standby = start(t, b.server.URL(), onFolder(path))
	standby.warm(t)
	if standby.leading() {
		t.Fatal("the second leads, too")
	}
	return leader, standby
}

// Promise P4: a watcher that stops hands over to one that has nothing to publish.
func TestTheStandbyTakesOverFromOneThatStops(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlsOf(40))
	leader, standby := pair(t, b, path)
	write(t, filepath.Join(path, "b.yaml"), yamlOf("late", 80))
	eventually(t, func() error {
		if state, _ := b.state(); state["Service shop/late"] == "" {
			return fmt.Errorf("STATE: %v", state)
		}
		return nil
	})
	_, before := b.state()
	begun := time.Now()
	leader.stop()
	standby.complete(t)
	t.Logf("taken over after %v", time.Since(begun))
	if _, after := b.state(); after != before+2 {
		t.Errorf("taking over published up to sequence %d, was %d; want an epoch and that STATE is complete", after, before)
	}
	write(t, filepath.Join(path, "b.yaml"), yamlOf("late", 81))
	eventually(t, func() error {
		if state, _ := b.state(); state["Service shop/late"] != "81" {
			return fmt.Errorf("STATE: %v", state)
		}
		return nil
	})
}

// Fault 2: a leader that is gone without a word is followed by the standby, and what changed meanwhile isn't lost.
func TestTheStandbyTakesOverFromOneThatIsGone(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	leader, standby := pair(t, b, path)
	_, conn := leader.stands()
	conn.Close()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 81))
	b.expect(map[string]string{"Service shop/cart": "81", "Complete state": "there"})
	if !standby.leading() {
		t.Error("the standby doesn't lead")
	}
}

// A compiler whose reading of STATE broke off may not know whether it is still the same. It waits for the watcher to say its
// epoch again, which must come though nothing happens.
func TestAnIdleLeaderSaysItsEpochAgain(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	start(t, b.server.URL(), func(w *service) {
		onFolder(path)(w)
		w.lookEvery, w.confirmEvery = 20*time.Millisecond, 100*time.Millisecond
	}).complete(t)
	said := map[uint64]bool{}
	eventually(t, func() error {
		epochs := bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectStateEpoch}}
		err := b.conn.Read(t.Context(), epochs, func(r bus.Record) error {
			if epoch, err := bus.ReadEpoch(r.Data); err != nil || epoch.GetEpoch() != 1 {
				t.Errorf("message %d says epoch %d, want 1: %v", r.Sequence, epoch.GetEpoch(), err)
			}
			said[r.Sequence] = true
			return nil
		})
		if err == nil && len(said) < 3 {
			err = fmt.Errorf("it was said %d times", len(said))
		}
		return err
	})
}

// Fault 5: a STATE that was lost, or is an old backup, is filled again by whoever leads.
func TestAStateThatIsTakenAwayIsMadeAnew(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	write(t, filepath.Join(path, "a.yaml"), yamlOf("cart", 80))
	fast := func(w *service) {
		onFolder(path)(w)
		w.lookEvery = 50 * time.Millisecond
	}
	leader := start(t, b.server.URL(), fast)
	leader.complete(t)
	start(t, b.server.URL(), fast).warm(t)
	if _, err := b.conn.Request(t.Context(), "$JS.API.STREAM.DELETE."+schemas.StateFacts.Name, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		state, _ := b.state()
		if state["Service shop/cart"] != "80" || state["Complete state"] == "" {
			return fmt.Errorf("STATE: %v", state)
		}
		return nil
	})
	if !strings.Contains(leader.log.String(), "kind=stream_missing") && !strings.Contains(leader.log.String(), "kind=stream_rolled_back") {
		t.Errorf("nobody was told that STATE was lost; log: %s", leader.log)
	}
}
