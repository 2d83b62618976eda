// SPDX-License-Identifier: Apache-2.0

// Package lead decides which of a service's replicas leads: one leads, the others stand by and are warm.
//
//	               silence, and it is its turn            the stream gave the epoch
//	┌──────────┐ ────────────────────────────► ┌────────┐ ─────────────────────► ┌─────────┐
//	│ standing │                               │ taking │                        │ leading │
//	└──────────┘ ◄──────────────────────────── └────────┘                        └─────────┘
//	     ▲             it was refused                                   paused, or │   ▲ the stream says
//	     │                                                               cut off  ▼   │ it still leads
//	     │      a higher epoch is heard, the stream refuses, it resigns        ┌──────────┐
//	     └─────────────────────────────────────────────────────────────────── │ doubting │
//	                                     (from leading, too)                    └──────────┘
//
// It promises nothing about safety: that is the stream's, whose epoch refuses whoever was deposed. It promises that a
// replica that can lead does so about a second after the last word of the one before, at once if that one resigns; that
// of several the first by name goes first; that none that can't lead keeps others from it; and that a leader that was
// paused or cut off doubts, and says nothing, until the stream has told it that it still leads.
//
// Machine is pure: pulses, ticks and what became of actions go in, pulses and actions come out. Package replica is it on
// the bus. The one thing to know before changing it: a replica hears its own pulses too, through the
// bus. That is how it knows that silence is that of others, and not its own deafness.
package lead

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// Options are a replica's settings. Service and Name are needed; a zero field takes its default.
type Options struct {
	// Service is "watcher" or "compiler".
	Service string
	// Name tells replicas apart; the first by name goes first.
	Name string
	// Every is how often a replica pulses.
	Every time.Duration // 250 ms
	// Silence is how long no leader may be heard until another takes over, and how long a leader that doesn't hear
	// itself is sure.
	Silence time.Duration // 1 s
	// Turn is how much later each next one by name takes over.
	Turn time.Duration // 200 ms
	// Rest is how long one that stood down, or was refused, waits before it tries again.
	Rest time.Duration // 1 s
}

func (o Options) withDefaults() Options {
	o.Every = cmp.Or(o.Every, 250*time.Millisecond)
	o.Silence = cmp.Or(o.Silence, time.Second)
	o.Turn = cmp.Or(o.Turn, 200*time.Millisecond)
	o.Rest = cmp.Or(o.Rest, time.Second)
	return o
}

// Phase is what a replica is about.
type Phase uint8

// The phases; see the drawing above.
const (
	Standing Phase = iota
	Taking
	Leading
	Doubting
)

func (p Phase) String() string {
	return [...]string{"standing by", "taking the epoch", "leading", "doubting"}[p]
}

// Action is what a machine wants done.
type Action uint8

// The actions. After Take comes Took or Refused, after Confirm comes Confirmed, Deposed or Resign.
const (
	Nothing Action = iota
	// Take the stream's epoch, above the highest one there was.
	Take
	// Confirm has the stream say that the epoch is still this replica's.
	Confirm
	// StandDown ends what this replica does as the leader: another leads, or should. The machine stands by already.
	StandDown
)

// Output is what a machine wants: a pulse to be sent, and something to be done.
type Output struct {
	Pulse *schemas.Pulse
	Do    Action
	// Above is for Take: the highest epoch that any replica has led in, as far as is known.
	Above uint64
}

// Shape is what a replica says of itself.
type Shape struct {
	// Able says that it could lead, or can go on.
	Able bool
	// Revision and Digest are of what it holds, for services that compare them.
	Revision uint64
	Digest   []byte
}

// Peer is a replica that was heard, or this one.
type Peer struct {
	Name  string
	Epoch uint64 // it leads in; 0 if it stands by
	Heard time.Time
	Shape
}

// Machine is one replica. One goroutine uses it.
type Machine struct {
	o     Options
	phase Phase
	epoch uint64 // Invariant: 0 unless Leading or Doubting
	shape Shape

	highest uint64      // epoch that was heard of
	leader  time.Time   // when one that leads was heard last
	sent    []time.Time // of our own newest pulses, by this machine's clock, oldest first
	echo    time.Time   // when the newest of our own pulses that came back was sent
	hearing time.Time   // since when our own pulses have come back without a break
	rest    time.Time   // not before then
	pulse   time.Time   // when the next is due
	ticked  time.Time
	unable  time.Time // since when a leader isn't able; zero if it is
	peers   map[string]Peer
}

// New returns a replica that stands by.
func New(o Options, now time.Time) *Machine {
	return &Machine{o: o.withDefaults(), pulse: now, rest: now, peers: map[string]Peer{}}
}

// Phase returns what the replica is about.
func (m *Machine) Phase() Phase { return m.phase }

// Epoch returns the epoch it leads in; 0 if it doesn't.
func (m *Machine) Epoch() uint64 { return m.epoch }

// Sure says whether the replica leads for all it knows, so that what it says may be believed: it has heard itself, or
// the stream, within Silence, and none that outranks it.
func (m *Machine) Sure(now time.Time) bool {
	return m.phase == Leading && now.Sub(m.echo) < m.o.Silence
}

// Set changes what the next pulses say. A change of Able, or of the epoch, is said at once.
func (m *Machine) Set(now time.Time, s Shape) {
	if s.Able != m.shape.Able {
		m.pulse = now
	}
	m.shape = s
}

// Above has the next epoch be above one that was seen elsewhere, as on a node whose log was lost.
func (m *Machine) Above(epoch uint64) { m.highest = max(m.highest, epoch) }

// mostPeers bounds the replicas that are known at a time: pulses aren't sealed. Nor is an epoch believed that there can't be
// yet.
const mostPeers = 64

// Heard takes in a pulse of this service's replicas, this one's own too.
func (m *Machine) Heard(now time.Time, p *schemas.Pulse) (out Output) {
	if p.GetService() != m.o.Service {
		return out
	}
	if p.GetName() == m.o.Name && m.heardSelf(now, p.GetSent().AsTime()) {
		return out
	}
	if _, known := m.peers[p.GetName()]; !known && len(m.peers) >= mostPeers || !model.Epoch(p.GetEpoch()).Believable(now) {
		return out
	}
	m.peers[p.GetName()] = Peer{Name: p.GetName(), Epoch: p.GetEpoch(), Heard: now, Shape: Shape{
		Able: p.GetAble() && !p.GetResigns(), Revision: p.GetRevision(), Digest: p.GetDigest(),
	}}
	if p.GetEpoch() == 0 || p.GetEpoch() < m.highest {
		return out // it stands by, or hasn't noticed yet that it does
	}
	m.highest, m.leader = p.GetEpoch(), now
	if p.GetResigns() {
		m.leader = now.Add(-m.o.Silence)
	}
	if m.epoch > 0 && m.highest > m.epoch {
		m.stand(now)
		out.Do = StandDown
	}
	return out
}

// heardSelf takes in a pulse that has this replica's name, and says whether it sent that. One that it didn't is of
// another that was given the same name by mistake: they take turns, badly, but the stream keeps them apart.
func (m *Machine) heardSelf(now, sent time.Time) bool {
	i := slices.IndexFunc(m.sent, sent.Equal)
	if i < 0 {
		return false
	}
	at := m.sent[i]
	m.sent = m.sent[i+1:]
	if now.Sub(at) >= m.o.Silence {
		return true // so late that it proves nothing
	}
	if now.Sub(m.echo) >= m.o.Silence {
		m.hearing = now
	}
	m.echo = at
	return true
}

// Tick lets time pass. Call it at Next, or whenever.
func (m *Machine) Tick(now time.Time) (out Output) {
	m.ticked = now
	for name, p := range m.peers {
		if now.Sub(p.Heard) > forget {
			delete(m.peers, name)
		}
	}
	switch {
	case m.phase == Leading && now.Sub(m.echo) >= m.o.Silence:
		m.phase = Doubting
		out.Do = Confirm
	case m.phase == Leading && m.shouldYield(now):
		out = m.Resign(now)
		out.Do = StandDown
		return out
	case m.phase == Standing && m.mayTake(now):
		m.phase = Taking
		out.Do, out.Above = Take, m.highest
	}
	if !now.Before(m.pulse) {
		m.pulse = now.Add(m.o.Every)
		out.Pulse = m.say(now)
	}
	return out
}

// forget is how long a replica that is no longer heard is remembered, for people.
const forget = time.Minute

// Next returns when the machine wants a Tick.
func (m *Machine) Next() time.Time {
	switch {
	case m.phase == Leading:
		return earlier(m.pulse, m.echo.Add(m.o.Silence))
	case m.phase == Standing && m.shape.Able && m.due().After(m.ticked):
		return earlier(m.pulse, m.due())
	}
	return m.pulse
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// mayTake says whether it is this replica's turn to take over: it is able, it hears itself, and nobody leads.
func (m *Machine) mayTake(now time.Time) bool {
	return m.shape.Able && now.Sub(m.echo) <= 2*m.o.Every && !now.Before(m.due())
}

// due returns when this replica's turn comes, if no leader is heard until then.
func (m *Machine) due() time.Time {
	silent := m.leader
	if m.hearing.After(silent) {
		silent = m.hearing
	}
	due := silent.Add(m.o.Silence)
	if m.rest.After(due) {
		due = m.rest
	}
	before := 0
	for _, p := range m.peers {
		if p.Able && p.Epoch == 0 && p.Name < m.o.Name && due.Sub(p.Heard) < m.o.Silence+2*m.o.Every {
			before++
		}
	}
	return due.Add(time.Duration(before) * m.o.Turn)
}

// shouldYield says whether this leader hasn't been able for a while, and another is.
func (m *Machine) shouldYield(now time.Time) bool {
	if m.shape.Able {
		m.unable = time.Time{}
		return false
	}
	if m.unable.IsZero() {
		m.unable = now
	}
	return now.Sub(m.unable) >= m.o.Silence && slices.ContainsFunc(m.Peers(now), func(p Peer) bool {
		return p.Name != m.o.Name && p.Able && now.Sub(p.Heard) < m.o.Silence
	})
}

// Took says that the stream, asked at a time, gave this replica an epoch.
func (m *Machine) Took(now, asked time.Time, epoch uint64) {
	m.phase, m.epoch, m.highest, m.echo, m.unable = Leading, epoch, max(m.highest, epoch), asked, time.Time{}
	m.pulse = now
}

// Refused says that the epoch couldn't be taken: another was faster, or the bus is away.
func (m *Machine) Refused(now time.Time) {
	m.phase, m.rest = Standing, now.Add(m.o.Rest)
}

// Confirmed says that the stream, asked at a time, took this replica for the leader.
func (m *Machine) Confirmed(now, asked time.Time) {
	if m.phase == Doubting {
		m.phase, m.echo, m.pulse = Leading, asked, now
	}
}

// Deposed says that the stream has refused this replica: another leads.
func (m *Machine) Deposed(now time.Time) { m.stand(now) }

// Resign ends leading so that another takes over at once: something has failed, or the process is about to stop.
func (m *Machine) Resign(now time.Time) (out Output) {
	if m.epoch > 0 {
		out.Pulse = m.say(now)
		out.Pulse.Epoch, out.Pulse.Resigns = m.epoch, true
	}
	m.stand(now)
	return out
}

func (m *Machine) stand(now time.Time) {
	m.phase, m.epoch, m.rest = Standing, 0, now.Add(m.o.Rest)
	m.leader = now // whoever leads next is given time to say so
}

// say makes a pulse. One that doubts doesn't say that it leads.
func (m *Machine) say(now time.Time) *schemas.Pulse {
	if len(m.sent) == mostSent {
		m.sent = slices.Delete(m.sent, 0, 1)
	}
	m.sent = append(m.sent, now)
	p := &schemas.Pulse{
		Service: m.o.Service, Name: m.o.Name, Able: m.shape.Able, Sent: timestamppb.New(now),
		Revision: m.shape.Revision, Digest: m.shape.Digest,
	}
	if m.phase == Leading {
		p.Epoch = m.epoch
	}
	return p
}

// mostSent bounds the pulses that may be under way.
const mostSent = 32

// Peers returns the replicas that were heard within a minute, and this one, in order of their names.
func (m *Machine) Peers(now time.Time) []Peer {
	list := []Peer{{Name: m.o.Name, Epoch: m.epoch, Heard: now, Shape: m.shape}}
	for _, p := range m.peers {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
