// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// answerWithin is as in internal/bus: how long one answer, or the next of many, may take.
const answerWithin = 5 * time.Second

// errAway is what a process that is cut off gets.
var errAway = errors.New("the bus is away")

// saidMost bounds the messages that are kept for forgers.
const saidMost = 16

// message is what goes over the bus.
type message struct {
	subject, reply string
	data           []byte
}

// weather is how badly the bus treats what goes to one subscriber: chances from 0 to 1.
type weather struct {
	loss, twice, late, reorder float64
	// Of appends to streams: that they never arrive, that their answer doesn't, that they arrive seconds late.
	lostAppend, lostAnswer, lateAppend float64
}

// wires are core NATS: who subscribes to what, who is cut off, and the weather.
type wires struct {
	*world
	weather       weather
	subscriptions []*subscription
	away          map[*process]bool
	stalled       map[*process]time.Time // until when nothing gets through to or from it; then all does
	inboxes       int
	// said are some deltas and heartbeats that were published, for who says them again.
	said []message
}

// subscription is one process' to a subject, in one of its lives.
type subscription struct {
	of      *process
	life    int
	pattern []string
	queue   string // of those with the same only one gets a message
	take    func(message)
	newest  time.Time // when what was sent last arrives: without reordering nothing overtakes
	ended   bool
}

func newWires(w *world) *wires {
	return &wires{world: w, away: map[*process]bool{}, stalled: map[*process]time.Time{}}
}

func (b *wires) subscribe(p *process, subject, queue string, take func(message)) *subscription {
	s := &subscription{of: p, life: p.life, pattern: strings.Split(subject, "."), queue: queue, take: take}
	b.subscriptions = append(b.subscriptions, s)
	return s
}

// live returns who gets a message, having forgotten those that have ended.
func (b *wires) live(subject string) (found []*subscription) {
	tokens := strings.Split(subject, ".")
	kept := b.subscriptions[:0]
	queues := map[string][]*subscription{}
	var names []string
	for _, s := range b.subscriptions {
		if s.ended || !s.of.up || s.of.life != s.life {
			continue
		}
		kept = append(kept, s)
		switch {
		case b.away[s.of] || !matches(s.pattern, tokens):
		case s.queue == "":
			found = append(found, s)
		default:
			if queues[s.queue] == nil {
				names = append(names, s.queue)
			}
			queues[s.queue] = append(queues[s.queue], s)
		}
	}
	clear(b.subscriptions[len(kept):])
	b.subscriptions = kept
	for _, name := range names {
		found = append(found, pick(b.world, queues[name]))
	}
	return found
}

func matches(pattern, subject []string) bool {
	for i, token := range pattern {
		if token == ">" {
			return len(subject) > i
		}
		if i >= len(subject) || token != "*" && token != subject[i] {
			return false
		}
	}
	return len(pattern) == len(subject)
}

// publish sends a message; nobody says whether it arrives.
func (b *wires) publish(from *process, m message) error {
	if b.away[from] {
		return errAway
	}
	if m.subject == schemas.SubjectHeartbeat || m.subject == schemas.ApplySubject("cluster") {
		if len(b.said) < saidMost {
			b.said = append(b.said, m)
		} else {
			b.said[b.random.IntN(saidMost)] = m
		}
	}
	b.deliver(from, m)
	return nil
}

// deliver brings a message to all who subscribe, and says how many those are.
func (b *wires) deliver(from *process, m message) int {
	to := b.live(m.subject)
	held := b.stall(from)
	for _, s := range to {
		copies := 1
		switch {
		case b.chance(b.weather.loss):
			b.injected["message lost"]++
			continue
		case b.chance(b.weather.twice):
			b.injected["message twice"]++
			copies = 2
		}
		for range copies {
			b.bring(s, m, held)
		}
	}
	return len(to)
}

// bring delivers one copy. While the receiver is stalled it waits; when the receiver is cut off it is lost.
func (b *wires) bring(s *subscription, m message, held time.Duration) {
	at := b.now.Add(held + b.between(50*time.Microsecond, 2*time.Millisecond))
	if b.chance(b.weather.late) {
		b.injected["message late"]++
		at = at.Add(b.between(0, 400*time.Millisecond))
	}
	switch {
	case b.chance(b.weather.reorder):
		b.injected["message overtaken"]++
		at = at.Add(b.between(0, 50*time.Millisecond))
	case at.Before(s.newest):
		at = s.newest
	default:
		s.newest = at
	}
	b.arrive(s, m, at)
}

func (b *wires) arrive(s *subscription, m message, at time.Time) {
	b.at(at, func() {
		if wait := b.stall(s.of); wait > 0 {
			b.arrive(s, m, b.now.Add(wait))
			return
		}
		if !s.ended && !b.away[s.of] {
			s.of.happens(s.life, func() {
				if !s.ended {
					s.take(m)
				}
			})
		}
	})
}

// stall returns how long nothing gets through to or from a process yet.
func (b *wires) stall(p *process) time.Duration { return max(0, b.stalled[p].Sub(b.now)) }

// request asks and gives each answer to each, until that says that no more follows; then it calls done, once.
func (b *wires) request(from *process, subject string, data []byte, each func([]byte) (more bool, err error), done func(error)) {
	if b.away[from] {
		done(errAway)
		return
	}
	b.inboxes++
	inbox, heard, over := fmt.Sprintf("_INBOX.%d", b.inboxes), 0, false
	var s *subscription
	end := func(err error) {
		if !over {
			over, s.ended = true, true
			done(err)
		}
	}
	watch := func() {
		at := heard
		from.after(answerWithin, func() {
			if heard == at {
				end(errors.New("no answer in time"))
			}
		})
	}
	s = b.subscribe(from, inbox, "", func(m message) {
		heard++
		more, err := each(m.data)
		if err != nil || !more {
			end(err)
			return
		}
		watch()
	})
	watch()
	if b.deliver(from, message{subject, inbox, data}) == 0 {
		from.after(time.Millisecond, func() { end(bus.ErrNobody) })
	}
}
