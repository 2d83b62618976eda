// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/schemas"
)

// witness hears what is said on the bus, at each of its servers: one may be away.
type witness struct {
	conns []*bus.Conn

	mu     sync.Mutex
	events []heard
	known  map[string]bool
	beats  []beat // the first of each epoch
}

// heard is an event, and when it came.
type heard struct {
	*schemas.Event
	at time.Time
}

// beat is the first heartbeat of an epoch.
type beat struct {
	epoch uint64
	at    time.Time
}

func newWitness(l *lab.Lab) (*witness, error) {
	w := &witness{known: map[string]bool{}}
	for _, url := range strings.Split(l.BusURL(), ",") {
		o := l.BusOptions()
		o.URL, o.Name = url, "witness "+url
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		conn, err := bus.Connect(ctx, o)
		cancel()
		if err != nil {
			w.close()
			return nil, err
		}
		w.conns = append(w.conns, conn)
		_, err = conn.Subscribe(schemas.SubjectAllEvents, w.event)
		if err == nil {
			_, err = conn.Subscribe(schemas.SubjectHeartbeat, w.heartbeat)
		}
		if err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *witness) close() {
	for _, conn := range w.conns {
		conn.Close()
	}
}

func (w *witness) event(m bus.Message) {
	var e schemas.Event
	if proto.Unmarshal(m.Data, &e) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known[string(m.Data)] {
		w.known[string(m.Data)] = true
		w.events = append(w.events, heard{&e, time.Now()})
	}
}

func (w *witness) heartbeat(m bus.Message) {
	var h schemas.Heartbeat
	if proto.Unmarshal(m.Data, &h) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.beats) == 0 || w.beats[len(w.beats)-1].epoch != h.GetEpoch() {
		w.beats = append(w.beats, beat{h.GetEpoch(), time.Now()})
	}
}

// leads returns when, after a time, a compiler began to lead in a new epoch.
func (w *witness) leads(after time.Time) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.beats, func(b beat) bool { return b.at.After(after) })
	if i < 1 {
		return time.Time{}, false
	}
	return w.beats[i].at, true
}

// said returns the first event of a kind that came after a time and has a text in it.
func (w *witness) said(after time.Time, kind, text string) (heard, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.at.After(after) && e.GetKind() == kind && strings.Contains(e.GetText(), text) {
			return e, true
		}
	}
	return heard{}, false
}

// told lists the events that came after a time, but for what policies deny all the time.
func (w *witness) told(after time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, e := range w.events {
		if e.at.After(after) && e.GetDrop() == nil {
			all = append(all, fmt.Sprintf("%s %s %s %s: %s", e.at.UTC().Format("15:04:05.000"), e.GetService(), e.GetNode(), e.GetKind(), e.GetText()))
		}
	}
	return strings.Join(all, "\n")
}
