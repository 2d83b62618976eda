// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// Pauses while waiting.
const (
	askPause  = 10 * time.Millisecond
	askWithin = 2 * time.Second
)

// Converged waits until what was published last is in the kernel of every node. When ctx ends first, the error says
// what is missing.
func (l *Lab) Converged(ctx context.Context) error {
	if l.conn == nil {
		return nil
	}
	var missing error
	var sequence uint64
	err := pollQuick(ctx, func() bool {
		if sequence, missing = l.inState(ctx); missing != nil {
			return false
		}
		return true
	})
	if err == nil {
		err = pollQuick(ctx, func() bool {
			missing = l.inKernels(ctx, sequence)
			return missing == nil
		})
	}
	if err != nil {
		return fmt.Errorf("wait until all nodes have the change: %w; %w; the services' logs are in %s", err, missing, l.Logs())
	}
	return nil
}

func pollQuick(ctx context.Context, done func() bool) error {
	for {
		if done() {
			return nil
		}
		select {
		case <-time.After(askPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// inState looks whether the watcher has published all objects as they are, and returns the newest sequence of STATE.
func (l *Lab) inState(ctx context.Context) (uint64, error) {
	wanted := map[string]*schemas.Fact{}
	for object := range l.Cluster().Watched() {
		fact, err := convert.Fact(object)
		if err != nil {
			continue // set aside: it never comes
		}
		o := fact.GetObject()
		wanted[schemas.StateSubject(o.GetKind(), o.GetNamespace(), o.GetName())] = fact
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	newest, complete := uint64(0), false
	err := l.conn.Read(ctx, bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState}}, func(r bus.Record) error {
		newest = max(newest, r.Sequence)
		var fact schemas.Fact
		if proto.Unmarshal(r.Data, &fact) != nil {
			return nil
		}
		complete = complete || fact.GetComplete() != nil
		if want, ours := wanted[r.Subject]; ours && sameState(want, &fact) {
			delete(wanted, r.Subject)
		} else if !ours && l.ours(&fact) {
			wanted[r.Subject] = &fact // still there and shouldn't be
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("the watcher's objects can't be read: %w", err)
	}
	for subject := range wanted {
		return 0, fmt.Errorf("the watcher hasn't published %s as it is (and %d more)", subject, len(wanted)-1)
	}
	if !complete {
		return 0, errors.New("the watcher hasn't listed everything yet")
	}
	return newest, nil
}

// ours says whether a fact that isn't wanted is one that the lab would have removed: of a real API server's objects
// only some are the lab's.
func (l *Lab) ours(fact *schemas.Fact) bool {
	return fact.GetState() != nil && l.options.Kubeconfig == "" && l.options.Bus == "" &&
		fact.GetComplete() == nil && fact.GetCluster() == nil
}

// sameState compares what facts say of the object, not of its history.
func sameState(a, b *schemas.Fact) bool {
	return proto.Equal(plain(a), plain(b))
}

func plain(fact *schemas.Fact) *schemas.Fact {
	p := proto.CloneOf(fact)
	p.Object, p.Manager, p.TriggerTime = nil, "", nil
	if s := p.GetService(); s != nil {
		s.Created = nil
	}
	return p
}

// inKernels asks the leading compiler how far every node is.
func (l *Lab) inKernels(ctx context.Context, sequence uint64) error {
	status, err := l.Status(ctx)
	if err != nil {
		return err
	}
	if status.GetStateSequence() < sequence {
		return fmt.Errorf("the compiler is at fact %d of %d", status.GetStateSequence(), sequence)
	}
	nodes := map[string]*schemas.NodeStatus{}
	for _, n := range status.GetNodes() {
		nodes[n.GetNode()] = n
	}
	for _, object := range l.Cluster().Nodes {
		n := nodes[object.Name]
		if !n.GetConverged() {
			return fmt.Errorf("node %s isn't converged: %s", object.Name, n.GetReason())
		}
	}
	return nil
}

// Status asks the leading compiler how the cluster stands.
func (l *Lab) Status(ctx context.Context) (*schemas.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	data, err := l.conn.Request(ctx, schemas.SubjectStatus, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the compiler how the cluster stands: %w", err)
	}
	var status schemas.Status
	if err := wire.Unmarshal(data, &status); err != nil {
		return nil, fmt.Errorf("read the compiler's answer: %w", err)
	}
	return &status, nil
}

// Nodes returns the names of the lab's nodes, in order.
func (l *Lab) Nodes() []string {
	var names []string
	for _, n := range l.Cluster().Nodes {
		names = append(names, n.Name)
	}
	return names
}
