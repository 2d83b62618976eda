// SPDX-License-Identifier: Apache-2.0

package resync

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
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

func snapshot(t *testing.T, n int) []*schemas.SyncReply {
	t.Helper()
	chunks, err := wire.SnapshotToProto(model.Snapshot{
		Layer: model.NodeLayer("a"), Position: model.Position{Epoch: 1, Revision: 7}, Rows: endpoints(n),
	}, 1024)
	if err != nil {
		t.Fatal(err)
	}
	var replies []*schemas.SyncReply
	for i, c := range chunks {
		replies = append(replies, &schemas.SyncReply{Sequence: uint32(i), Content: &schemas.SyncReply_Snapshot{Snapshot: c}})
	}
	return replies
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

func TestASnapshotInChunksComesOutWhole(t *testing.T) {
	replies := snapshot(t, 200)
	if len(replies) < 3 {
		t.Fatalf("%d chunks are too few for this test", len(replies))
	}
	replies = append(replies, &schemas.SyncReply{Sequence: uint32(len(replies)), Last: true})
	inputs, more, err := take(t, replies)
	if err != nil || more || len(inputs) != 1 {
		t.Fatalf("got %d inputs, more %v, %v", len(inputs), more, err)
	}
	s := inputs[0].(core.Snapshot)
	if len(s.Rows.Endpoints) != 200 || s.Bytes < 2000 {
		t.Errorf("%d rows of %d bytes", len(s.Rows.Endpoints), s.Bytes)
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
	replies := snapshot(t, 200)
	cut := append(replies[:1:1], &schemas.SyncReply{Sequence: 1, Last: true})
	hole := append(replies[:1:1], replies[2])
	for want, replies := range map[string][]*schemas.SyncReply{
		"message 2 of the answer came where 1 was due: what lies between is lost": hole,
		"the answer ended amid 1 of its layers":                                   cut,
		"the compiler does not answer: starting":                                  {{Refused: "starting"}},
		"not a message that deltaplane writes":                                    {{Content: &schemas.SyncReply_Snapshot{Snapshot: &schemas.Snapshot{Layer: "galaxy"}}}},
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
