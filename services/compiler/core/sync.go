// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// How often one node may ask: so many times at once, then once a refill.
const (
	burst      = 5
	refill     = time.Second
	maxBuckets = 8192
	// maxWaiting bounds the requests that wait for the log.
	maxWaiting = 1024
)

// request is one that waits for the log, which the rows are ahead of.
type request struct {
	to        any
	node      string
	positions map[model.Layer]model.Position
	dump      bool
}

// Answer is what goes back to who asked. Its messages are made when they are sent.
type Answer struct {
	To       any
	messages func() iter.Seq[[]byte]
}

// Messages iterates over the messages of the answer in order.
func (a Answer) Messages() iter.Seq[[]byte] { return a.messages() }

// Sync answers a node's SyncRequest: with the deltas it lacks, else with a snapshot, of each of its layers. The
// answer goes to whoever to stands for.
func (c *Core) Sync(now time.Time, to any, data []byte) Output {
	node, positions, err := wire.DecodeSyncRequest(data)
	if err != nil {
		out := refuse(to, err.Error())
		out.Events = c.foreign(now, "request for what a node lacks", err)
		return out
	}
	if wait := c.impatient(node, now); wait > 0 {
		c.stats.SyncRefused++
		return refuse(to, fmt.Sprintf("node %s asks too often: ask again in %s", node, wait.Round(time.Millisecond)))
	}
	return c.answer(request{to: to, node: node, positions: positions})
}

// Dump answers a DumpRequest with the rows that a node should have.
func (c *Core) Dump(_ time.Time, to any, data []byte) Output {
	var m schemas.DumpRequest
	err := wire.Unmarshal(data, &m)
	if err == nil {
		err = wire.Name("node", m.GetNode())
	}
	if err != nil {
		return Output{Answers: []Answer{refusedDump(to, err.Error())}}
	}
	return c.answer(request{to: to, node: m.GetNode(), dump: true})
}

func (c *Core) answer(r request) Output {
	switch {
	case len(c.appending) > 0 && len(c.waiting) < maxWaiting:
		c.waiting = append(c.waiting, r)
		return Output{}
	case len(c.appending) > 0:
		return r.refuse("the log is slow and many are waiting: ask again later")
	case !c.trusted:
		return r.refuse("the compiler can't say yet what nodes should hold: it waits " + c.Waiting())
	case r.dump:
		return Output{Answers: []Answer{c.dump(r)}}
	}
	var out Output
	if o := c.outranked(r.positions); o != nil {
		out = r.refuse(fmt.Sprintf("node %s has seen epoch %d, this compiler leads in %d: it takes a higher one", r.node, o.Epoch, c.epoch))
		out.Outranked = o
		return out
	}
	if l, ahead := c.cut(r); ahead {
		return r.refuse(fmt.Sprintf("the log is behind what node %s holds of layer %s, so it was cut: it waits %s", r.node, l, c.Waiting()))
	}
	if l, above := c.lift(r.node, r.positions); above {
		return r.refuse(fmt.Sprintf("node %s is at revision %d of layer %s, above this compiler's %d: it has yet to read the log, or goes above that",
			r.node, r.positions[l].Revision, l, c.Position(l).Revision))
	}
	out.Answers = []Answer{c.missing(r)}
	return out
}

// cut says whether a node has rows of a layer that the log has lost, while nothing but the log says what they should
// be. Until all is compiled such a node keeps what it has: the log's rows are older.
func (c *Core) cut(r request) (model.Layer, bool) {
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.node)} {
		is, told := r.positions[l]
		should := c.Position(l)
		if told && (c.compiled == nil || !c.Leads()) && (is.Revision > should.Revision || is.Revision == should.Revision && is.Digest != should.Digest) {
			return l, true
		}
	}
	return model.Layer{}, false
}

func (r *request) refuse(reason string) Output {
	if r.dump {
		return Output{Answers: []Answer{refusedDump(r.to, reason)}}
	}
	return refuse(r.to, reason)
}

// missing answers with what a node lacks.
func (c *Core) missing(r request) Answer {
	var parts []part
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.node)} {
		should := c.Position(l)
		is, told := r.positions[l]
		if told && is.Revision == should.Revision && is.Digest == should.Digest {
			continue
		}
		if deltas, ok := c.recent.since(l, is, c.o.Signer.ID()); told && ok {
			c.stats.SyncDeltas++
			parts = append(parts, part{fieldDelta, deltas})
			continue
		}
		c.stats.SyncSnapshots++
		parts = append(parts, c.snapshot(l, should)...)
	}
	return Answer{To: r.to, messages: func() iter.Seq[[]byte] { return replies(parts) }}
}

// snapshot answers with all rows of a layer. Of the cluster layer an older snapshot that is encoded already does
// too, with the deltas since: when thousands of nodes start while things change, encoding must not be done for
// each of them.
func (c *Core) snapshot(l model.Layer, at model.Position) []part {
	if l == model.ClusterLayer && c.snapshots.messages != nil && c.snapshots.at != at {
		deltas, ok := c.recent.since(l, c.snapshots.at, c.o.Signer.ID())
		if ok && 4*bytesOf(deltas) <= bytesOf(c.snapshots.messages) {
			return []part{{fieldSnapshot, c.snapshots.messages}, {fieldDelta, deltas}}
		}
	}
	return []part{{fieldSnapshot, c.snapshots.of(c.o, l, at, c.rows(l))}}
}

func bytesOf(messages [][]byte) (n int) {
	for _, m := range messages {
		n += len(m)
	}
	return n
}

// part is some messages of one sort within an answer.
type part struct {
	field    protowire.Number
	messages [][]byte
}

// Field numbers of SyncReply in delta.proto; a test holds them to the generated code.
const (
	fieldDelta    protowire.Number = 1
	fieldSnapshot protowire.Number = 2
	fieldLast     protowire.Number = 3
	fieldSequence protowire.Number = 5
)

// replies wraps messages that are encoded already into SyncReplies, the last of which says so.
func replies(parts []part) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		left, sequence := 0, uint64(0)
		for _, p := range parts {
			left += len(p.messages)
		}
		if left == 0 {
			yield(protowire.AppendVarint(protowire.AppendTag(nil, fieldLast, protowire.VarintType), 1))
			return
		}
		for _, p := range parts {
			for _, m := range p.messages {
				left--
				b := make([]byte, 0, len(m)+answerRoom)
				b = protowire.AppendBytes(protowire.AppendTag(b, p.field, protowire.BytesType), m)
				if left == 0 {
					b = protowire.AppendVarint(protowire.AppendTag(b, fieldLast, protowire.VarintType), 1)
				}
				b = protowire.AppendVarint(protowire.AppendTag(b, fieldSequence, protowire.VarintType), sequence)
				sequence++
				if !yield(b) {
					return
				}
			}
		}
	}
}

func refuse(to any, reason string) Output {
	return Output{Answers: []Answer{one(to, &schemas.SyncReply{Refused: reason, Last: true})}}
}

func refusedDump(to any, reason string) Answer {
	return one(to, &schemas.DumpReply{Refused: reason, Last: true})
}

func one(to any, m proto.Message) Answer {
	return Answer{To: to, messages: func() iter.Seq[[]byte] { return slices.Values([][]byte{encode(m)}) }}
}

func encode(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic("core: encode a message of our own: " + err.Error())
	}
	return data
}

// dump answers with all rows of a node.
func (c *Core) dump(r request) Answer {
	positions := map[model.Layer]model.Position{}
	var chunks []*schemas.Rows
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.node)} {
		positions[l] = c.Position(l)
		rows, err := wire.SplitRows(c.rows(l).Rows(), c.o.MaxMessage-1024) // positions stand beside the first
		if err != nil {
			return refusedDump(r.to, err.Error())
		}
		chunks = append(chunks, rows...)
	}
	return Answer{To: r.to, messages: func() iter.Seq[[]byte] {
		return func(yield func([]byte) bool) {
			for i, rows := range chunks {
				m := &schemas.DumpReply{Rows: rows, Sequence: uint32(i), Last: i == len(chunks)-1}
				if i == 0 {
					m.Positions = wire.PositionsToProto(positions)
				}
				if !yield(encode(m)) {
					return
				}
			}
		}
	}}
}

// cache keeps the encoded snapshot of the cluster layer: when all nodes start at once, all want the same.
type cache struct {
	at       model.Position
	key      seal.KeyID
	messages [][]byte
}

func (s *cache) of(o Options, l model.Layer, at model.Position, rows *model.Tables) [][]byte {
	if l == model.ClusterLayer && s.at == at && s.key == o.Signer.ID() && s.messages != nil {
		return s.messages
	}
	messages, err := wire.EncodeSnapshot(model.Snapshot{Layer: l, Position: at, Rows: rows.Rows()}, o.MaxMessage)
	if err != nil {
		panic("core: a snapshot can't be encoded: " + err.Error())
	}
	messages = o.Signer.Seal(seal.Snapshot, messages)
	if l == model.ClusterLayer {
		s.at, s.key, s.messages = at, o.Signer.ID(), messages
	}
	return messages
}

// bucket is how often a node may still ask.
type bucket struct {
	left float64
	at   time.Time
}

// impatient returns how long a node has to wait before it may ask; 0 if it may now.
func (c *Core) impatient(node string, now time.Time) time.Duration {
	b := c.patience[node]
	if b == nil {
		if len(c.patience) >= maxBuckets {
			maps.DeleteFunc(c.patience, func(_ string, b *bucket) bool { return now.Sub(b.at) > burst*refill })
		}
		if len(c.patience) >= maxBuckets {
			return refill
		}
		b = &bucket{left: burst, at: now}
		c.patience[node] = b
	}
	b.left = min(burst, b.left+now.Sub(b.at).Seconds()/refill.Seconds())
	b.at = now
	if b.left < 1 {
		return time.Duration((1 - b.left) * float64(refill))
	}
	b.left--
	return 0
}
