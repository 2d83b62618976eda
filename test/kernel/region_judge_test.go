// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// regionVNI is the network in which the nodes of a region wrap.
const regionVNI = 0xde17

// wrapped reads what became of a packet that goes on to another node, or having come from one leaves by this; is says if
// it is one.
func (j *judge) wrapped(p refmodel.Packet, at passage, said refmodel.Told, out []byte) (did refmodel.Outcome, is bool, err error) {
	w, is := refmodel.Wrapped(out)
	if !is {
		return did, false, nil
	}
	came, _ := refmodel.Wrapped(at.frame)
	if said.Reason != model.ReasonNone { // the answer to what is refused
		w.To = came.From
		answer := slices.Concat(at.frame[6:12], at.frame[:6], out[12:])
		return refmodel.Outcome{Verdict: refmodel.Reject, Told: said, Wrapped: w}, true, p.CheckRefusal(at.frame, answer, said.Reason)
	}
	after, readable := refmodel.Parse(out)
	if !readable {
		return did, true, errors.New("what came out can't be read any more")
	}
	did = refmodel.Outcome{Verdict: refmodel.Forward, Source: after.Source, Destination: after.Destination}
	want := at.frame
	if !p.LengthsLie { // else there is no right checksum
		want = p.Rewrite(at.frame, did.Source, did.Destination)
	}
	if at.hook == fromTunnelHook {
		want = refmodel.OneHopLess(want)
	} else {
		noted, err := j.wrappedFor(p, at, w)
		if w.To = noted.To; err != nil || w != noted {
			return did, true, fmt.Errorf("wrapped as %+v, noted %+v: %w", w, noted, err)
		}
		did.Wrapped, want = w, w.Wrap(want)
	}
	if !p.LengthsLie && !bytes.Equal(out, want) {
		return did, true, fmt.Errorf("%s, but with other bytes than\nwanted    %x", did, want)
	}
	return did, true, nil
}

// wrappedFor is how a packet was wrapped: what runs packets doesn't tell for whom, but its flow does. With a RST none begins.
func (j *judge) wrappedFor(p refmodel.Packet, at passage, w refmodel.Wrapping) (refmodel.Wrapping, error) {
	tuple := abi.Tuple{Source: p.Source.Addr().As16(), Destination: p.Destination.Addr().As16(), Protocol: uint8(p.Protocol)}
	tuple.SourcePort = [2]byte{byte(p.Source.Port() >> 8), byte(p.Source.Port())}
	tuple.DestinationPort = [2]byte{byte(p.Destination.Port() >> 8), byte(p.Destination.Port())}
	if at.hook.leaving() {
		tuple.Leaving = 1
	}
	flow, found, err := j.kernel.Flow(tuple)
	if err == nil && !found && p.RST {
		return w, nil
	}
	if err == nil && (!found || flow.Way != abi.WayWrap) {
		err = fmt.Errorf("it goes wrapped, but its flow doesn't say so: %+v", flow)
	}
	w = refmodel.Wrapping{From: j.node.Number, To: model.NodeID(flow.Node)}
	if !at.hook.leaving() {
		w.Backend = model.BackendID(flow.Backend)
	}
	return w, err
}

// notWrapped is how a packet would have been that found no way to a backend on another node.
func (j *judge) notWrapped(p refmodel.Packet, at passage, said refmodel.Told) (w refmodel.Wrapping) {
	if said.Reason == model.ReasonNoWay && at.hook == fromUplinkHook {
		w, _ = j.wrappedFor(p, at, w)
	}
	return w
}

// unwrapped judges what came from another node.
func (j *judge) unwrapped(at passage, p refmodel.Packet, did refmodel.Outcome, now uint32) error {
	w, numbered := refmodel.Wrapped(at.frame)
	outer := at.outer.Source
	if at.outer.VNI != regionVNI || !numbered {
		outer = netip.Addr{}
	}
	return j.flows.ComesUnwrapped(j.node, w, outer, p, did, now)
}

// regionPacket lets a frame pass at a node and judges what became of it.
func (r *region) packet(f flight) error {
	n := r.nodes[f.node]
	verdict, out, now, err := n.run(f.passage)
	if err != nil {
		return fmt.Errorf("frame %x: %w", f.frame, err)
	}
	said, err := n.said(verdict)
	if err != nil {
		return err
	}
	p, readable := refmodel.Parse(f.frame)
	if !readable {
		return fmt.Errorf("frame %x can't be read", f.frame)
	}
	did, err := n.outcome(p, f.passage, verdict, said, out)
	r.told.add("%s, %s %s: %s", n.name, f.hook, p, did)
	if err == nil {
		err = n.model(f.passage, p, did, now)
	}
	if err != nil {
		return fmt.Errorf("%s, %s %w\nframe in  %x\nframe out %x", n.name, f.hook, err, f.frame, out)
	}
	r.count(f, p, did)
	r.went(f, p, did, out)
	return nil
}
