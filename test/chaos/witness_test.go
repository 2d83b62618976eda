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
	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/schemas"
)

// witness hears what is said on the bus, at each of its servers: one may be away.
type witness struct {
	conns []*bus.Conn

	mu     sync.Mutex
	events []heard
	known  map[string]bool
	reigns map[string][]reign // by service
}

// heard is an event, and when it came.
type heard struct {
	*schemas.Event
	at time.Time
}

// reign is an epoch, when it was first heard of and when last. One that was silent for longer than silence and is heard of
// again is another: the stream was lost, and counts anew.
type reign struct {
	epoch       uint64
	begun, last time.Time
}

const silence = 3 * time.Second

func newWitness(l *lab.Lab) (*witness, error) {
	w := &witness{known: map[string]bool{}, reigns: map[string][]reign{}}
	for url := range strings.SplitSeq(l.BusURL(), ",") {
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
		if err == nil {
			_, err = conn.Subscribe(schemas.SubjectAllPulses, w.pulse)
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

// heartbeat is what a leading compiler says once it can do its work.
func (w *witness) heartbeat(m bus.Message) {
	var h schemas.Heartbeat
	if proto.Unmarshal(m.Data, &h) == nil {
		w.rules("compiler", h.GetEpoch())
	}
}

// pulse is what a leading watcher says.
func (w *witness) pulse(m bus.Message) {
	var p schemas.Pulse
	if proto.Unmarshal(m.Data, &p) == nil && p.GetService() == "watcher" && p.GetEpoch() > 0 && !p.GetResigns() {
		w.rules("watcher", p.GetEpoch())
	}
}

func (w *witness) rules(service string, epoch uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for i := range w.reigns[service] {
		if r := &w.reigns[service][i]; r.epoch == epoch && now.Sub(r.last) < silence {
			r.last = now
			return
		}
	}
	w.reigns[service] = append(w.reigns[service], reign{epoch, now, now})
}

// leads returns when the first epoch after a time began.
func (w *witness) leads(service string, after time.Time) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.reigns[service] {
		if r.begun.After(after) {
			return r.begun, true
		}
	}
	return time.Time{}, false
}

// said says whether an event of one of some kinds came after a time, with a text in it.
func (w *witness) said(after time.Time, text string, kinds ...streams.Kind) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, func(e heard) bool {
		return e.at.After(after) && slices.Contains(kinds, streams.Kind(e.GetKind())) && strings.Contains(e.GetText(), text)
	})
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
