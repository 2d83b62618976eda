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

// ServiceOf returns the root set of the Service that a connection's client dialled, where its packets were translated on
// this node; 0 if none was, or another node or the client's socket did that.
func (d *Dataplane) ServiceOf(key *abi.ConnectionKey) (set uint32, err error) {
	// Backends answer, as the Service, by what leaves to the client.
	for _, backend := range []abi.Tuple{
		{Source: key.Peer, SourcePort: key.PeerPort, Destination: key.Pod, DestinationPort: key.PodPort},
		{Source: key.Pod, SourcePort: key.PodPort, Destination: key.Peer, DestinationPort: key.PeerPort},
	} {
		backend.Protocol, backend.Leaving = key.Protocol, 1
		var flow abi.Flow
		err := d.maps[flowsMap].Lookup(bytesOf(&backend), bytesOf(&flow))
		if err = ignoreMissing(err); err != nil {
			return 0, fmt.Errorf("read the flow of a connection: %w", err)
		}
		if flow.Set != 0 {
			return flow.Set, nil
		}
	}
	return 0, nil
}
