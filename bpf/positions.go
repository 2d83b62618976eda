// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// The positions lie in a memory-mapped array beside the maps they describe: writing one is no system call, and a
// crash leaves what was written. A position that was cut short by a crash does not have the digest of the maps,
// which is how its reader knows.

// positionSize is the place of one layer kind in the array.
const positionSize = 32

// ReadPosition returns how far the rows of a layer have come in the maps; zero if nothing was ever written.
func (d *Dataplane) ReadPosition(layer model.LayerKind) (model.Position, error) {
	var b [positionSize]byte
	if _, err := d.positions.ReadAt(b[:], int64(layer)*positionSize); err != nil {
		return model.Position{}, fmt.Errorf("read the position of layer kind %d: %w", layer, err)
	}
	var p abi.Position
	if err := abi.Decode(b[:], &p); err != nil {
		return model.Position{}, err
	}
	return model.Position{
		Epoch: model.Epoch(p.Epoch), Revision: model.Revision(p.Revision), Digest: p.Digest,
	}, nil
}

// WritePosition records how far the rows of a layer have come.
func (d *Dataplane) WritePosition(layer model.LayerKind, p model.Position) error {
	b := abi.Encode(abi.Position{Epoch: uint64(p.Epoch), Revision: uint64(p.Revision), Digest: p.Digest})
	if _, err := d.positions.WriteAt(b, int64(layer)*positionSize); err != nil {
		return fmt.Errorf("write the position of layer kind %d: %w", layer, err)
	}
	return nil
}
