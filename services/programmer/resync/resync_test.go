// SPDX-License-Identifier: Apache-2.0

package resync

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/programmer/core"
)

func endpoints(n int) model.Rows {
	var rows model.Rows
	for i := range n {
		rows.Endpoints = append(rows.Endpoints, model.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Pod: fmt.Sprintf("shop/web-%d", i),
		})
	}
	return rows
}

// pieces are all rows of a layer, as they are answered.
func pieces(t *testing.T, n int) []*schemas.SyncReply {
	t.Helper()
	rows, tables := endpoints(n), model.NewTables()
	s := walk.Source{Layer: model.NodeLayer("a"), Tables: tables, Tree: model.NewTree(&rows)}
	s.Position = model.Position{Epoch: 1, Revision: 7, Digest: tables.Apply(&model.Change{Put: rows}, model.Digest{})}
	var replies []*schemas.SyncReply
	for p := walk.PieceAt(0, n, 20); ; p = walk.PieceAt(p.Last()+1, n, 20) {
		var m schemas.Branches
		if err := proto.Unmarshal(s.Message(s.Rows(p)), &m); err != nil {
			t.Fatal(err)
		}
		replies = append(replies, &schemas.SyncReply{
			Sequence: uint32(len(replies)), Content: &schemas.SyncReply_Branches{Branches: &m}, Last: p.Last() == math.MaxUint64,
		})
		if replies[len(replies)-1].GetLast() {
			return replies
		}
	}
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// take puts replies into an answer and returns what they bring, until an error.
func take(t *testing.T, replies []*schemas.SyncReply) (inputs []core.Input, more bool, err error) {
	t.Helper()
	var a Answer
	for _, r := range replies {
		var in core.Input
		if in, more, err = a.Add(encode(t, r)); err != nil {
			return inputs, more, err
		}
		if in != nil {
			inputs = append(inputs, in)
		}
	}
	return inputs, more, nil
}

func TestAllRowsComeInPieces(t *testing.T) {
	inputs, more, err := take(t, pieces(t, 200))
	if err != nil || more || len(inputs) < 10 {
		t.Fatalf("got %d inputs, more %v, %v", len(inputs), more, err)
	}
	rows := 0
	for _, in := range inputs {
		b := in.(core.Branches)
		for _, h := range b.Held {
			rows += h.Rows.Len()
		}
		if b.Position.Revision != 7 || b.Bytes < 20 {
			t.Errorf("a piece of %d bytes at %v", b.Bytes, b.Position)
		}
	}
	if rows != 200 {
		t.Errorf("%d rows, want 200", rows)
	}
}

func TestWhatIsSealedIsOpenedAsItCame(t *testing.T) {
	replies := pieces(t, 30)
	var opened []seal.Domain
	a := Answer{Open: func(d seal.Domain, data []byte) ([]byte, error) {
		opened = append(opened, d)
		if len(opened) == 2 {
			return nil, seal.ErrUnsealed
		}
		return data, nil
	}}
	if in, more, err := a.Add(encode(t, replies[0])); in == nil || !more || err != nil {
		t.Errorf("a good one: %v, more %v, %v", in, more, err)
	}
	if in, more, err := a.Add(encode(t, replies[1])); in != nil || more || !errors.Is(err, seal.ErrUnsealed) {
		t.Errorf("one without a seal: %v, more %v, %v", in, more, err)
	}
	if opened[0] != seal.Branches {
		t.Errorf("opened as %v", opened)
	}
}

func TestACompilerSaysWhenToAskAgain(t *testing.T) {
	var a Answer
	_, _, err := a.Add(encode(t, &schemas.SyncReply{Refused: "busy", RetryAfterMillis: 1500, Last: true}))
	if end := a.End(err); !errors.Is(end.Err, ErrRefused) || end.After != 1500*time.Millisecond {
		t.Errorf("got %+v", end)
	}
	a = Answer{}
	_, _, err = a.Add(encode(t, &schemas.SyncReply{Last: true, More: true}))
	if end := a.End(err); end.Err != nil || !end.More {
		t.Errorf("got %+v", end)
	}
}

func TestADeltaInPartsComesOutWhole(t *testing.T) {
	d := model.Delta{
		Epoch: 1, Layer: model.NodeLayer("a"), From: 1, To: 2, Change: model.Change{Put: endpoints(100)},
		Causes: []model.Cause{{Kind: "Pod", Name: "web"}},
	}
	messages, err := wire.EncodeDelta(d, 1024)
	if err != nil {
		t.Fatal(err)
	}
	var deltas Deltas
	size := 0
	for i, m := range messages {
		size += len(m)
		got, complete, err := deltas.Add(m)
		if err != nil || complete != (i == len(messages)-1) {
			t.Fatalf("part %d: complete %v, %v", i, complete, err)
		}
		if complete && (len(got.Change.Put.Endpoints) != 100 || got.Bytes != size || got.Synced) {
			t.Errorf("got %d rows of %d bytes, want 100 of %d", len(got.Change.Put.Endpoints), got.Bytes, size)
		}
	}
}

func TestAnswersThatCannotBeRightEndByName(t *testing.T) {
	replies := pieces(t, 200)
	hole := append(replies[:1:1], replies[2])
	for want, replies := range map[string][]*schemas.SyncReply{
		"message 2 of the answer came where 1 was due: what lies between is lost": hole,
		"the answer ended amid 1 of its layers": {
			{Content: &schemas.SyncReply_Delta{Delta: half(t)}, Last: true},
		},
		"the compiler does not answer: starting": {{Refused: "starting"}},
		"not a message that deltaplane writes":   {{Content: &schemas.SyncReply_Branches{Branches: &schemas.Branches{Layer: "galaxy"}}}},
	} {
		_, more, err := take(t, replies)
		if err == nil || more || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, more %v\nwant %s", err, more, want)
		}
	}
	var a Answer
	if _, _, err := a.Add([]byte{0xff, 1, 2}); !errors.Is(err, wire.ErrForeign) {
		t.Errorf("garbage: %v", err)
	}
	var d Deltas
	if _, _, err := d.Add([]byte{0xff, 1, 2}); !errors.Is(err, wire.ErrForeign) {
		t.Errorf("garbage: %v", err)
	}
}

// half is the first part of a delta.
func half(t *testing.T) *schemas.Delta {
	t.Helper()
	parts, err := wire.DeltaToProto(model.Delta{
		Epoch: 1, Layer: model.NodeLayer("a"), From: 1, To: 2, Change: model.Change{Put: endpoints(100)},
	}, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return parts[0]
}
