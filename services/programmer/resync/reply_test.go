// SPDX-License-Identifier: Apache-2.0

package resync

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/walk"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func TestContentIsWhatTheSchemaCallsContent(t *testing.T) {
	fields := (&schemas.SyncReply{}).ProtoReflect().Descriptor().Oneofs().ByName("content").Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Name() == "snapshot" {
			continue // nobody sends it any more
		}
		if domain := domains[f.Number()]; string(domain) != string(f.Name()) {
			t.Errorf("field %d, %s, is opened as a %q", f.Number(), f.Name(), domain)
		}
	}
}

// Promise P7: of an answer only what a compiler has sealed is used, whoever answers.
func TestOfAnAnswerOnlyWhatIsSealedIsUsed(t *testing.T) {
	signer := seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	trust := seal.NewTrust(signer.Public())
	delta, err := wire.EncodeDelta(model.Delta{Epoch: 1, Layer: model.ClusterLayer, To: 1}, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	tree := walk.Source{Layer: model.ClusterLayer, Position: model.Position{Epoch: 1, Revision: 1}, Tables: model.NewTables(), Tree: &model.Tree{}}
	branches, _ := tree.Branches([]model.Branch{model.Root}, 1<<10)
	tree.Position.Revision++
	others, _ := tree.Branches([]model.Branch{model.Root}, 1<<10)
	wrap := func(field protowire.Number, content []byte) []byte {
		b := protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), content)
		return protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), 1)
	}
	sealed := signer.SealOne(seal.Delta, delta[0])
	turned := bytes.Clone(sealed)
	turned[1]++
	for name, c := range map[string]struct {
		message []byte
		used    bool
	}{
		"a sealed delta":                {wrap(1, sealed), true},
		"sealed branches":               {wrap(6, signer.SealOne(seal.Branches, branches)), true},
		"a plain delta":                 {wrap(1, delta[0]), false},
		"plain branches":                {wrap(6, others), false},
		"a turned bit":                  {wrap(1, turned), false},
		"branches sealed as a delta":    {wrap(6, signer.SealOne(seal.Delta, others)), false},
		"a sealed delta as branches":    {wrap(6, sealed), false},
		"a sealed delta, then a forged": {append(wrap(1, sealed), wrap(1, delta[0])...), false},
	} {
		t.Run(name, func(t *testing.T) {
			a := Answer{Open: trust.Open}
			in, _, err := a.Add(c.message)
			if c.used != (in != nil) || c.used != (err == nil) {
				t.Errorf("it gives %v, %v; want it used: %t", in, err, c.used)
			}
			if err != nil && !errors.Is(err, seal.ErrUnsealed) {
				t.Errorf("%v, want an ErrUnsealed", err)
			}
		})
	}
	// Seals stand on bytes that a decoder may write otherwise: here a field that this version doesn't know comes first.
	odd := append(protowire.AppendVarint(protowire.AppendTag(nil, 77, protowire.VarintType), 1), delta[0]...)
	a := Answer{Open: trust.Open}
	if in, _, err := a.Add(wrap(1, signer.SealOne(seal.Delta, odd))); err != nil || in == nil {
		t.Errorf("a delta with a field of a newer version: %v, %v", in, err)
	}
	if err := proto.Unmarshal(wrap(1, sealed), &schemas.SyncReply{}); err != nil {
		t.Error(err)
	}
}
