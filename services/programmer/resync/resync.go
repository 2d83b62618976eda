// SPDX-License-Identifier: Apache-2.0

// Package resync puts together what comes over the bus in pieces: the deltas that all nodes are sent, and the answer to
// one node's question for what it lacks. It is pure, believes nothing it reads, and holds a bounded amount.
//
// The one thing to know: an answer counts only as far as it has come without a hole. What it completed before the hole
// stands, since each delta and what each branch holds is whole in itself; the rest is asked for again.
package resync

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

// Deltas puts deltas together that come in parts. The zero value is ready.
type Deltas struct {
	assembler wire.Assembler
	bytes     map[model.Layer]int
}

// Add takes one message and returns the delta that it completes, if it does.
func (d *Deltas) Add(message []byte) (delta core.Delta, complete bool, err error) {
	part, err := wire.DecodeDelta(message)
	if err != nil {
		return core.Delta{}, false, err
	}
	return d.add(part, len(message))
}

func (d *Deltas) add(part wire.DeltaPart, size int) (core.Delta, bool, error) {
	if d.bytes == nil {
		d.bytes = map[model.Layer]int{}
	}
	size += d.bytes[part.Layer]
	whole, complete, err := d.assembler.Add(part)
	if err != nil || complete {
		delete(d.bytes, part.Layer)
		return core.Delta{Delta: whole, Bytes: size}, complete, err
	}
	if len(d.bytes) < layersMost {
		d.bytes[part.Layer] = size
	}
	return core.Delta{}, false, nil
}

// layersMost bounds the layers that are kept track of: a node has two.
const layersMost = 64

// Request is the SyncRequest of a node that wants to ask.
func Request(node string, ask core.Sync) ([]byte, error) {
	return proto.Marshal(wire.SyncRequestToProto(wire.SyncRequest{
		Node: node, Positions: ask.Positions, Walks: ask.Walks, Room: ask.Room,
	}))
}

// ErrRefused is a compiler that gives no answer at the moment, and says why.
var ErrRefused = errors.New("the compiler does not answer")

// Answer puts the answer to one question together. The zero value is ready, and believes whoever answers.
type Answer struct {
	// Open checks the seal of what an answer brings, and takes it off.
	Open func(seal.Domain, []byte) ([]byte, error)

	next   uint32
	deltas Deltas
	open   map[model.Layer]bool // begun, and not yet whole
	ended  core.SyncEnded
}

// Add takes the next message. It returns the core.Delta or core.Branches that the message completes, if any, and
// whether more messages follow.
func (a *Answer) Add(message []byte) (in core.Input, more bool, err error) {
	reply, err := readReply(message)
	if err != nil {
		return nil, false, err
	}
	switch {
	case reply.GetRefused() != "":
		a.ended.After = min(time.Duration(reply.GetRetryAfterMillis())*time.Millisecond, maxWait)
		return nil, false, fmt.Errorf("%w: %.256s", ErrRefused, reply.GetRefused())
	case reply.GetSequence() != a.next:
		return nil, false, fmt.Errorf("message %d of the answer came where %d was due: what lies between is lost", reply.GetSequence(), a.next)
	}
	a.next++
	a.ended.More = reply.GetMore()
	body, err := reply.open(a.Open)
	switch {
	case err != nil:
	case reply.domain == seal.Delta:
		in, err = a.delta(body, len(message))
	case reply.domain == seal.Branches:
		in, err = branches(body, len(message))
	}
	if err == nil && reply.GetLast() && len(a.open) > 0 {
		err = fmt.Errorf("the answer ended amid %d of its layers", len(a.open))
	}
	return in, err == nil && !reply.GetLast(), err
}

// maxWait bounds how long a compiler may have a node wait.
const maxWait = 30 * time.Second

// End returns what ends the answer, given why Add failed or the answer broke off.
func (a *Answer) End(err error) core.SyncEnded {
	a.ended.Err = err
	return a.ended
}

func branches(body []byte, size int) (core.Input, error) {
	b, err := walk.Decode(body)
	if err != nil {
		return nil, err
	}
	return core.Branches{Branches: b, Bytes: size}, nil
}

func (a *Answer) delta(body []byte, size int) (core.Input, error) {
	part, err := wire.DecodeDelta(body)
	if err != nil {
		return nil, err
	}
	d, complete, err := a.deltas.add(part, size)
	a.mark(part.Layer, complete)
	if err != nil || !complete {
		return nil, err
	}
	d.Synced = true
	return d, nil
}

func (a *Answer) mark(l model.Layer, complete bool) {
	if a.open == nil {
		a.open = map[model.Layer]bool{}
	}
	if complete {
		delete(a.open, l)
	} else if len(a.open) < layersMost {
		a.open[l] = true
	}
}
