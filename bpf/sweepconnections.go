// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"fmt"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

func (s *sweeper) sweepConnections(ctx context.Context) error {
	return sweepEntries(ctx, s, connectionsMap, &s.swept.Connections, func(key *abi.ConnectionKey, value *abi.Connection) error {
		pod, err := s.incarnationOf(key.Pod)
		if err != nil {
			return err
		}
		over := func(c *abi.Connection) bool { return s.timeouts.connectionOver(key, c, pod, s.now) }
		if !over(value) {
			return nil
		}
		return endEntry(s.d.maps[connectionsMap], key, &s.swept.ConnectionsDeleted, over)
	})
}

// incarnation tells a pod from others that have had its address.
type incarnation struct {
	number uint32
	known  bool // that there is a pod
}

// connectionOver says whether a connection is: it was idle for too long, or it is of a pod that is gone. One of which no
// other has the address yet may only be away for a moment, so its connections have as long as those that are closing.
// The programs take an entry that is over for none, see include/connection.h.
func (t *Timeouts) connectionOver(key *abi.ConnectionKey, c *abi.Connection, pod incarnation, now uint32) bool {
	stands := standingOfConnection(key, c)
	stands.fin = stands.fin || !pod.known
	return pod.known && pod.number != c.Incarnation || t.expired(stands, now)
}

// standingOfConnection returns what an entry says.
func standingOfConnection(key *abi.ConnectionKey, c *abi.Connection) standing {
	return standing{
		protocol: model.Protocol(key.Protocol),
		seen:     c.Seen,
		answered: c.State&abi.ConnectionAnswered != 0,
		fin:      c.State&(abi.ConnectionPodFin|abi.ConnectionPeerFin) != 0,
		// One that was never allowed is there for the answer to its refusal.
		reset: c.State&abi.ConnectionReset != 0 || c.Epoch == 0,
	}
}

// incarnationOf returns which pod has an address.
func (s *sweeper) incarnationOf(addr [16]byte) (incarnation, error) {
	if pod, known := s.pods[addr]; known {
		return pod, nil
	}
	var row abi.Endpoint
	err := s.d.Map(abi.Endpoints).Lookup(addr, bytesOf(&row))
	if ignoreMissing(err) != nil {
		return incarnation{}, fmt.Errorf("read the endpoint of %s: %w", abi.Addr(addr), err)
	}
	pod := incarnation{row.Incarnation, err == nil}
	s.pods[addr] = pod
	return pod, nil
}
