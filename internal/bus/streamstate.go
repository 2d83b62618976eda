// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/deltaplane/deltaplane/internal/streams"
)

// StreamState asks the server how a stream stands. One that isn't there is no error but a State that says so.
func (c *Conn) StreamState(ctx context.Context, name string) (streams.State, error) {
	ctx, cancel := context.WithTimeout(ctx, AnswerWithin)
	defer cancel()
	stream, err := c.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return streams.State{Name: name, Missing: true}, nil
	}
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == codeNotReady {
		return streams.State{Name: name}, nil // nobody leads it
	}
	if err != nil {
		return streams.State{}, fmt.Errorf("look how stream %s stands: %w", name, c.explainStream(err))
	}
	info := stream.CachedInfo()
	is := streams.State{
		Name: name, Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: uint64(max(info.Config.MaxBytes, 0)),
		First: info.State.FirstSeq, Last: info.State.LastSeq, Oldest: info.State.FirstTime,
		Made: info.Created, Copies: info.Config.Replicas,
	}
	if info.Cluster == nil {
		is.Leader = c.nats.ConnectedServerName() // a server that stands alone
		return is, nil
	}
	is.Leader = info.Cluster.Leader
	for _, peer := range info.Cluster.Replicas {
		if peer.Offline || !peer.Current {
			is.Lagging = append(is.Lagging, peer.Name)
		}
	}
	slices.Sort(is.Lagging)
	return is, nil
}
