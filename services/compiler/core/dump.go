// SPDX-License-Identifier: Apache-2.0

package core

import (
	"iter"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// Dump answers a DumpRequest with the rows that a node should have.
func (c *Core) Dump(now time.Time, to any, data []byte) Output {
	var m schemas.DumpRequest
	err := wire.Unmarshal(data, &m)
	if err == nil {
		err = wire.Name("node", m.GetNode())
	}
	if err != nil {
		return Output{Answers: []Answer{refusedDump(to, err.Error())}}
	}
	return c.answer(now, request{to: to, SyncRequest: wire.SyncRequest{Node: m.GetNode()}, dump: true})
}

// dump answers with all rows of a node.
func (c *Core) dump(r request) Answer {
	positions := map[model.Layer]model.Position{}
	var chunks []*schemas.Rows
	for _, l := range []model.Layer{model.ClusterLayer, model.NodeLayer(r.Node)} {
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

func refusedDump(to any, reason string) Answer {
	return one(to, &schemas.DumpReply{Refused: reason, Last: true})
}
