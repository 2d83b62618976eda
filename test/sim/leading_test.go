// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// How leading is taken.
const (
	pulseEvery  = 250 * time.Millisecond
	leaderless  = time.Second
	rankApart   = 300 * time.Millisecond
	restBetween = time.Second
)

// leading is who of several replicas leads: who hears no leader's pulse tries. The stream's epoch decides; a pulse only
// says when to try.
type leading struct {
	*process
	bus     *wires
	service string
	rank    int
	begin   func()
	deposed func(epoch uint64)

	epoch  uint64 // in which it leads; 0 if it doesn't
	trying bool
	heard  time.Time
	rest   time.Time
}

func newLeading(p *process, b *wires, service string, rank int, begin func(), deposed func(uint64)) *leading {
	return &leading{process: p, bus: b, service: service, rank: rank, begin: begin, deposed: deposed}
}

func (l *leading) run() {
	l.epoch, l.trying, l.heard, l.rest = 0, false, l.now, time.Time{}
	l.bus.subscribe(l.process, schemas.PulseSubject(l.service), "", l.hear)
	l.after(l.between(0, pulseEvery), l.tick)
}

func (l *leading) tick() {
	silence := l.now.Sub(l.heard)
	switch {
	case l.epoch != 0:
		pulse := &schemas.Pulse{Service: l.service, Name: l.name, Epoch: l.epoch, Able: true, Sent: timestamppb.New(l.clock())}
		_ = l.bus.publish(l.process, message{subject: schemas.PulseSubject(l.service), data: marshal(pulse)})
	case !l.trying && silence >= leaderless+time.Duration(l.rank)*rankApart && !l.now.Before(l.rest) && !l.bus.away[l.process]:
		l.trying = true
		l.begin()
	}
	l.after(pulseEvery, l.tick)
}

func (l *leading) hear(m message) {
	var pulse schemas.Pulse
	if proto.Unmarshal(m.data, &pulse) != nil || pulse.GetName() == l.name || pulse.GetEpoch() == 0 {
		return
	}
	if l.epoch == 0 {
		l.heard = l.now
		return
	}
	if pulse.GetEpoch() > l.epoch {
		l.heard = l.now
		l.deposed(pulse.GetEpoch())
	}
}

// leads says that a term has taken its epoch, ended that it is over.
func (l *leading) leads(epoch uint64) { l.epoch = epoch }

func (l *leading) ended() {
	l.epoch, l.trying = 0, false
	l.rest = l.now.Add(restBetween)
}
