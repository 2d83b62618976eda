// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// maxWaiting bounds the requests that wait for the log.
const maxWaiting = 8192

// request is one that waits for the log, which the rows are ahead of.
type request struct {
	wire.SyncRequest
	to   any
	dump bool
}

// Answer is what goes back to who asked. Its messages are made when they are sent.
type Answer struct {
	To       any
	messages func() iter.Seq[[]byte]
}

// Messages iterates over the messages of the answer in order.
func (a Answer) Messages() iter.Seq[[]byte] { return a.messages() }

// Sync answers a node's SyncRequest, for each of its layers: with the deltas that it lacks, or with what it walks
// (docs/adr/0015). The answer goes to whoever to stands for.
func (c *Core) Sync(now time.Time, to any, data []byte) Output {
	r, err := wire.DecodeSyncRequest(data)
	if err != nil {
		out := refuse(to, err.Error(), 0)
		out.Events = c.foreign(now, "request for what a node lacks", err)
		return out
	}
	if wait := c.patience.wait(now, &r); wait > 0 {
		c.stats.SyncRefused++
		return refuse(to, fmt.Sprintf("node %s asks too often: ask again in %s", r.Node, wait.Round(time.Millisecond)), wait)
	}
	if wait := c.turns.wait(now, &r); wait > 0 {
		c.stats.SyncRefused++
		return refuse(to, fmt.Sprintf("many nodes ask for rows: it is the turn of node %s in %s", r.Node, wait.Round(time.Millisecond)), wait)
	}
	return c.answer(now, request{to: to, SyncRequest: r})
}

func (c *Core) answer(now time.Time, r request) Output {
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
	if o := c.outranked(r.Node, r.Positions); o != nil {
		out = r.refuse(fmt.Sprintf("node %s has seen epoch %d, this compiler leads in %d: it takes a higher one", r.Node, o.Epoch, c.epoch))
		out.Outranked = o
		return out
	}
	if l, ahead := c.cut(r); ahead {
		return r.refuse(fmt.Sprintf("the log is behind what node %s holds of layer %s, so it was cut: it waits %s", r.Node, l, c.Waiting()))
	}
	if l, above := c.lift(now, r.Node, r.Positions); above {
		return r.refuse(fmt.Sprintf("node %s is at revision %d of layer %s, above this compiler's %d: it has yet to read the log, or goes above that",
			r.Node, r.Positions[l].Revision, l, c.Position(l).Revision))
	}
	out.Answers = []Answer{c.missing(now, r)}
	return out
}

// cut says whether a node has rows of a layer that the log has lost, while nothing but the log says what they should
// be. Until all is compiled such a node keeps what it has: the log's rows are older.
func (c *Core) cut(r request) (model.Layer, bool) {
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.Node)} {
		is, told := r.Positions[l]
		walked := slices.ContainsFunc(r.Walks, func(w model.Walk) bool { return w.Layer == l })
		should := c.Position(l)
		if told && (!c.ready() || !c.Leads()) && (is.Revision > should.Revision || !walked && is.Revision == should.Revision && is.Digest != should.Digest) {
			return l, true
		}
	}
	return model.Layer{}, false
}

func (r *request) refuse(reason string) Output {
	if r.dump {
		return Output{Answers: []Answer{refusedDump(r.to, reason)}}
	}
	return refuse(r.to, reason, 0)
}

func refuse(to any, reason string, wait time.Duration) Output {
	m := &schemas.SyncReply{Refused: reason, Last: true, RetryAfterMillis: uint32((wait + time.Millisecond - 1).Milliseconds())}
	return Output{Answers: []Answer{one(to, m)}}
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
