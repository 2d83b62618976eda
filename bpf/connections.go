// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
)

// Connections calls each with the connections of pods that the programs have let begin since there are policies, in no
// order, until it returns false or ctx ends, which is no error. One that comes or goes meanwhile may be missing or come
// twice; one that is over may still be there.
func (d *Dataplane) Connections(ctx context.Context, each func(*abi.ConnectionKey, *abi.Connection) bool) error {
	for b := newBatches(d.maps[connectionsMap]); ctx.Err() == nil; {
		n, err := b.next()
		if err != nil {
			return fmt.Errorf("read the connections of pods: %w", err)
		}
		keys, values := view[abi.ConnectionKey](b.keys, n), view[abi.Connection](b.values, n)
		for i := range n {
			if values[i].Epoch != 0 && !each(&keys[i], &values[i]) {
				return nil
			}
		}
		if n == 0 {
			return nil
		}
	}
	return nil
}
