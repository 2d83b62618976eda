// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"crypto/ed25519"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// sealedEvery is in how many histories one is sealed, and has someone on the bus who forges.
const sealedEvery = 3

// seals are the keys of a cluster; without any nothing is sealed and everyone is believed.
type seals struct {
	signer *seal.Signer
	trust  *seal.Trust
}

func newSeals() seals {
	signer := seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	return seals{signer, seal.NewTrust(signer.Public())}
}

// open takes the seal off, if it is one that is believed.
func (s *seals) open(d seal.Domain, data []byte) ([]byte, error) {
	if s.trust == nil {
		return data, nil
	}
	return s.trust.Open(d, data)
}

// forge has someone who may publish say what no compiler said: the newest delta or heartbeat, changed, taken for another
// kind, sealed by another's key, or not at all; or what a node would take for the next delta if it didn't look at the key.
func (f *faults) forge() {
	if f.seals.trust == nil {
		return
	}
	m := f.bus.said[f.random.IntN(len(f.bus.said))]
	body, err := f.seals.trust.Open(seal.Delta, m.data)
	var forged proto.Message = &schemas.Delta{}
	if err != nil {
		if body, err = f.seals.trust.Open(seal.Heartbeat, m.data); err != nil {
			return
		}
		forged = &schemas.Heartbeat{}
	}
	if proto.Unmarshal(body, forged) != nil {
		return
	}
	switch forged := forged.(type) {
	case *schemas.Delta:
		forged.Epoch++
		forged.From, forged.To = forged.GetTo(), forged.GetTo()+1
	case *schemas.Heartbeat:
		forged.Epoch += 3
	}
	body = marshal(forged)
	switch f.random.IntN(5) {
	case 0:
		m.data = body
	case 1:
		m.data = strange.SealOne(seal.Delta, body)
	case 2:
		m.data = f.seals.signer.SealOne(seal.Fact, body)
	case 3: // as it was, but late
	case 4:
		m = f.fitting()
	}
	f.bus.deliver(&process{world: f.world, name: "forger", up: true}, m)
}

// strange is a key that nobody trusts.
var strange = seal.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{7}, ed25519.SeedSize)))

// fitting is a delta that goes on from what a node holds, as the next one of the compiler would.
func (f *faults) fitting() message {
	at, _ := pick(f.world, f.nodes).memory.Position(model.LayerCluster) // memory can be read
	messages, err := wire.EncodeDelta(model.Delta{
		Layer: model.ClusterLayer, Epoch: at.Epoch, From: at.Revision, To: at.Revision + 1, DigestAfter: at.Digest, Committed: f.now,
	}, bus.MaxBatchBytes)
	if err != nil {
		panic("sim: " + err.Error())
	}
	return message{subject: schemas.ApplySubject("cluster"), data: strange.SealOne(seal.Delta, messages[0])}
}

// rotate gives the cluster another key: who trusts gets it before who seals has it. What stands in the streams under the
// key before stays, so that one stays trusted.
func (f *faults) rotate() {
	if f.seals.trust == nil {
		return
	}
	f.rotations++
	key := ed25519.NewKeyFromSeed(slices.Repeat([]byte{byte(100 + f.rotations)}, ed25519.SeedSize))
	f.keys = append(f.keys, key.Public().(ed25519.PublicKey))
	f.seals.trust.Replace(append(f.keys, f.seals.signer.Public())...)
	f.keys = append(f.keys, f.seals.signer.Public())
	f.after(f.between(0, 3*time.Second), func() { f.seals.signer.Replace(key) })
}
