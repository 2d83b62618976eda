// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// judge holds the programs and the model to each other.
type judge struct {
	t         *testing.T
	kernel    kernelNode
	traffic   *traffic
	flows     *refmodel.Flows
	fragments *refmodel.Fragments
	node      *refmodel.Node
	tally     tally
	past      uint32 // seconds that were let pass
	told      *lastSteps
}

func (j *judge) change() error {
	w := j.traffic.world
	switch {
	case w.rules == nil || len(w.services) == 0:
		w.change()
	case !w.rules.begun || w.choose(2) == 0:
		w.changePolicy()
	default:
		w.change()
	}
	j.tally["change of tables"]++
	j.tell("the tables change: %s", w.changed)
	if err := errors.Join(j.kernel.Set(model.LayerCluster, w.cluster), j.kernel.Set(model.LayerNode, w.node)); err != nil {
		return err
	}
	j.node = w.model(j.kernel.around)
	return nil
}

func (j *judge) passTime(seconds uint32) error {
	j.tally["passing of time"]++
	j.tell("%d seconds pass", seconds)
	j.past += seconds
	return j.kernel.PassTime(seconds)
}

// hits compares how often each rule was counted.
func (j *judge) hits() error {
	hits, err := j.kernel.RuleHits()
	if err != nil {
		return err
	}
	if want := j.flows.Connections.Hits; !maps.Equal(hits, want) {
		return fmt.Errorf("rules have decided %v connections, want %v", hits, want)
	}
	return nil
}

// errSecondPassed ends a world early: the kernel's clock, which it shares with no one, went on by a second between our
// looking at it and the program's.
var errSecondPassed = errors.New("a second passed")

// tickMax is longer than a tick of any kernel: as long after a second begins the programs may still take it for the last one.
const tickMax = 20_000_000 // ns

// clock returns the seconds of the clock that the programs look at, once they see them too.
func clock() uint32 {
	for {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			panic(err) // there is no such kernel
		}
		if now.Nsec >= tickMax {
			return uint32(now.Sec)
		}
	}
}

// run gives a frame to the hook's program; now is the programs' time.
func (j *judge) run(p passage) (verdict bpf.Verdict, out []byte, now uint32, err error) {
	now = clock()
	switch p.hook {
	case fromPodHook:
		verdict, out, err = j.kernel.FromPod(p.frame)
	case toPodHook:
		verdict, out, err = j.kernel.ToPod(p.frame)
	case fromUplinkHook:
		verdict, out, err = j.kernel.FromUplink(p.frame, uplinkA)
	case toUplinkHook:
		verdict, out, err = j.kernel.ToUplink(p.frame, uplinkA)
	case fromTunnelHook:
		verdict, out, err = j.kernel.FromTunnel(p.frame, p.outer, uplinkA)
	}
	if err == nil && clock() != now {
		err = errSecondPassed
	}
	return verdict, out, now + j.past, err
}

func (j *judge) packet(at passage) error {
	verdict, out, now, err := j.run(at)
	if err != nil {
		return fmt.Errorf("frame %x: %w", at.frame, err)
	}
	said, err := j.said(verdict)
	if err != nil {
		return fmt.Errorf("%s: %w\nframe in  %x", at.hook, err, at.frame)
	}
	if at.hook.ofPod() && j.node.Policed() {
		j.tally[judgedByPolicy]++
	}
	p, readable := refmodel.Parse(at.frame)
	if readable {
		err = j.readable(at, p, verdict, said, out, now)
	} else {
		err = j.unreadable(at, verdict, said, out, now)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s %w\nframe in  %x\nframe out %x", at.hook, err, at.frame, out)
	case verdict == bpf.Refuse && at.hook.ofPod(): // the answer comes by the same interface, the other way
		return j.packet(passage{hook: turned[at.hook], frame: out})
	case verdict == bpf.Pass:
		j.traffic.went(at, out)
	}
	return nil
}

// said is what the programs said about a packet that goes no further.
func (j *judge) said(verdict bpf.Verdict) (refmodel.Told, error) {
	if verdict == bpf.Pass {
		return refmodel.Told{}, nil
	}
	events, err := j.kernel.Drops()
	if err != nil || len(events) == 0 {
		return refmodel.Told{}, err
	}
	if noWayBack := len(events) == 2 && events[1].Reason == uint8(model.ReasonNoWay); len(events) > 1 && !noWayBack {
		return refmodel.Told{}, fmt.Errorf("%d drops were told of, want one: %+v", len(events), events)
	}
	e := events[0]
	at := func(addr [16]byte, port [2]byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), uint16(port[0])<<8|uint16(port[1]))
	}
	return refmodel.Told{
		Ruling: refmodel.Ruling{
			Reason: model.DropReason(e.Reason), Direction: model.Direction(e.Direction),
			RuleSet: model.RuleSetID(e.RuleSet), Rule: model.RuleID(e.Rule),
		},
		Ends: refmodel.EndsOf(model.Protocol(e.Protocol), at(e.Source, e.SourcePort), at(e.Destination, e.DestinationPort)),
	}, nil
}

// readable judges a packet with ports.
func (j *judge) readable(at passage, p refmodel.Packet, verdict bpf.Verdict, said refmodel.Told, out []byte, now uint32) error {
	did, err := j.outcome(p, at, verdict, said, out)
	j.tell("%s %s: %s", at.hook, p, did)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if p.Later {
		return j.later(at, p, did)
	}
	if err := j.model(at, p, did, now); err != nil {
		return err
	}
	if p.First {
		j.fragments.First(p, at.hook.leaving(), did)
	}
	j.count(at.hook, p, did)
	return nil
}

// model judges what became of a packet with ports.
func (j *judge) model(at passage, p refmodel.Packet, did refmodel.Outcome, now uint32) error {
	switch at.hook {
	case fromPodHook:
		return j.flows.ComesIn(j.node, refmodel.PodPacket, p, did, now)
	case fromUplinkHook:
		return j.flows.ComesIn(j.node, refmodel.UplinkPacket, p, did, now)
	case toPodHook:
		return j.flows.Leaves(j.node, 0, p, did, now)
	case toUplinkHook:
		return j.flows.Leaves(j.node, uplinkA, p, did, now)
	}
	return j.unwrapped(at, p, did, now)
}

// later judges a fragment but the first.
func (j *judge) later(at passage, p refmodel.Packet, did refmodel.Outcome) error {
	want := j.fragments.Later(j.node, p, at.hook.ofPod(), at.hook.leaving())
	if did.Told = want.Told; did != want {
		return fmt.Errorf("%s: a later fragment, want %s, got %s", p, want, did)
	}
	j.tally["later fragment"]++
	return nil
}

// unreadable judges what has no ports: policies may have a say about it, and it may be an ICMP error about a flow.
func (j *judge) unreadable(at passage, verdict bpf.Verdict, said refmodel.Told, out []byte, now uint32) error {
	judged := at.hook.ofPod() && j.node.Policed()
	s, _ := refmodel.See(at.frame)
	part := s.Fragment()
	if part.Later && judged {
		did, err := j.outcome(part, at, verdict, said, out)
		j.tell("%s %s, a later fragment without ports: %s", at.hook, part, did)
		if err != nil {
			return err
		}
		return j.later(at, part, did)
	}
	fate := j.flows.WithoutPorts(j.node, at.frame, at.hook.ofPod(), at.hook.leaving(), now)
	j.tell("%s %s without ports: %s, %s; to be translated: %v; %x", at.hook, part, verdict, said.Reason, fate.Frame != nil && !bytes.Equal(fate.Frame, at.frame), at.frame[14:])
	if verdict == bpf.Refuse && fate.Verdict == refmodel.Reject {
		if err := part.CheckRefusal(at.frame, out, said.Reason); err != nil {
			return err
		}
		j.flows.Refused(j.node, at.frame, at.hook.leaving())
	} else if got := inWords[verdict]; got != fate.Verdict {
		return fmt.Errorf("%s without ports: %s (%s), want %s (%s)", part, got, said, fate.Verdict, fate.Told)
	}
	switch {
	case fate.Verdict != refmodel.Forward:
		if said.Ruling != fate.Told.Ruling || said.Direction != 0 && said != fate.Told {
			return fmt.Errorf("%s without ports: it is said to be dropped as %s, want %s", part, said, fate.Told)
		}
	case !bytes.Equal(out, fate.Frame):
		return fmt.Errorf("%s without ports: it became other bytes than\nwanted    %x", part, fate.Frame)
	}
	if part.First && judged {
		j.fragments.First(part, at.hook.leaving(), refmodel.Outcome{Verdict: fate.Verdict, Source: part.Source, Destination: part.Destination})
	}
	j.countWithoutPorts(at, fate)
	return nil
}

// inWords are the programs' in the model's words.
var inWords = map[bpf.Verdict]refmodel.Verdict{bpf.Pass: refmodel.Forward, bpf.Drop: refmodel.Drop, bpf.Refuse: refmodel.Reject}

func (j *judge) countWithoutPorts(at passage, fate refmodel.Fate) {
	switch {
	case fate.Told.Direction != 0:
		j.tally["denied without ports"]++
	case fate.Verdict == refmodel.Drop:
		j.tally["dropped"]++
	case bytes.Equal(fate.Frame, at.frame):
		j.tally["let through"]++
	default:
		j.tally["error translated"]++
	}
}

// outcome reads what the programs did, and checks every byte of what came out.
func (j *judge) outcome(p refmodel.Packet, at passage, verdict bpf.Verdict, said refmodel.Told, out []byte) (refmodel.Outcome, error) {
	frame := at.frame
	if verdict == bpf.Refuse {
		if did, is, err := j.wrapped(p, at, said, out); is {
			return did, err
		}
	}
	switch verdict {
	case bpf.Drop:
		return refmodel.Outcome{Verdict: refmodel.Drop, Told: said, Wrapped: j.notWrapped(p, at, said)}, nil
	case bpf.Refuse:
		return refmodel.Outcome{Verdict: refmodel.Reject, Told: said, Wrapped: j.notWrapped(p, at, said)}, p.CheckRefusal(frame, out, said.Reason)
	}
	after, readable := refmodel.See(out)
	if !readable {
		return refmodel.Outcome{Verdict: refmodel.Forward}, errors.New("what came out can't be read any more")
	}
	part := after.Fragment()
	did := refmodel.Outcome{Verdict: refmodel.Forward, Source: part.Source, Destination: part.Destination}
	if p.LengthsLie { // there is no right checksum
		return did, nil
	}
	if want := p.Rewrite(frame, did.Source, did.Destination); !bytes.Equal(out, want) {
		return did, fmt.Errorf("%s, but with other bytes than\nwanted    %x", did, want)
	}
	return did, nil
}

func (j *judge) count(at hook, p refmodel.Packet, did refmodel.Outcome) {
	kind := "translated coming in"
	switch {
	case did.Told.Direction != 0:
		kind = "denied by " + did.Told.Reason.String()
		if did.Verdict == refmodel.Reject {
			kind = "denied and told"
		}
	case did.Verdict == refmodel.Drop:
		kind = "dropped"
	case did.Verdict == refmodel.Reject:
		kind = "refused"
	case did.Source == p.Source && did.Destination == p.Destination:
		kind = "let through"
	case at.leaving() && slices.Contains(nodes, did.Source.Addr()) && did.Destination == p.Destination:
		kind = "masqueraded"
	case at.leaving():
		kind = "translated leaving"
	case did.Source != p.Source:
		kind = "given another port"
	}
	j.tally[kind]++
}

// lastSteps are the last steps, for people.
type lastSteps struct{ lines []string }

// historyLength is how many steps are told of before a disagreement.
const historyLength = 40

func (h *lastSteps) add(format string, args ...any) {
	h.lines = append(h.lines, fmt.Sprintf(format, args...))
	if len(h.lines) > historyLength {
		h.lines = h.lines[1:]
	}
}

// String is a line a step.
func (h *lastSteps) String() string {
	var b bytes.Buffer
	for _, line := range h.lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	return b.String()
}

func (j *judge) tell(format string, args ...any) { j.told.add(format, args...) }
