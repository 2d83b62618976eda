// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
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
	var state statePoint
	wanted := l.wanted()
	err := pollQuick(ctx, func() bool {
		state, missing = l.inState(ctx, wanted)
		return missing == nil
	})
	if err == nil {
		err = pollQuick(ctx, func() bool {
			if missing = l.inKernels(ctx, state); errors.Is(missing, errAnotherState) { // another watcher leads, or STATE was lost
				if at, err := l.inState(ctx, wanted); err == nil {
					state = at
				}
			}
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

// wanted are the facts that the watcher is to publish, by subject.
func (l *Lab) wanted() map[string]*schemas.Fact {
	wanted := map[string]*schemas.Fact{}
	for object := range l.Cluster().Watched() {
		fact, err := convert.Fact(object)
		if err != nil {
			continue // set aside: it never comes
		}
		o := fact.GetObject()
		wanted[schemas.StateSubject(o.GetKind(), o.GetNamespace(), o.GetName())] = plain(fact)
	}
	return wanted
}

// stateView is what STATE holds, read on from where it was read last, and read anew when it isn't the same any more.
type stateView struct {
	mu       sync.Mutex
	epoch    bus.Record // the newest: each watcher that begins to lead writes one
	sequence uint64
	facts    map[string]*schemas.Fact // by subject, those that are there
	complete bool
}

func (v *stateView) update(ctx context.Context, conn *bus.Conn) error {
	if err := v.same(ctx, conn); err != nil {
		return fmt.Errorf("the watcher's objects can't be read: %w", err)
	}
	options := bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState}, FromSequence: v.sequence + 1}
	err := conn.Read(ctx, options, func(r bus.Record) error {
		v.sequence = max(v.sequence, r.Sequence)
		fact := &schemas.Fact{}
		switch err := wire.Unmarshal(r.Data, fact); {
		case err != nil || fact.GetState() == nil:
			delete(v.facts, r.Subject)
		case fact.GetComplete() != nil:
			v.complete = true
		default:
			v.facts[r.Subject] = plain(fact)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the watcher's objects can't be read: %w", err)
	}
	return nil
}

// same forgets everything if another watcher leads, or the stream was lost or went back: what was read may be gone.
func (v *stateView) same(ctx context.Context, conn *bus.Conn) error {
	var epoch bus.Record
	err := conn.Read(ctx, bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectStateEpoch}}, func(r bus.Record) error {
		epoch = r
		return nil
	})
	if err != nil {
		return err
	}
	is, err := conn.StreamState(ctx, schemas.StateFacts.Name)
	if err != nil {
		return err
	}
	if v.facts == nil || epoch.Sequence != v.epoch.Sequence || !bytes.Equal(epoch.Data, v.epoch.Data) || is.Last < v.sequence {
		v.epoch, v.sequence, v.facts, v.complete = epoch, 0, map[string]*schemas.Fact{}, false
	}
	return nil
}

// statePoint is how far STATE must be read: to a message of the stream as it is in an epoch.
type statePoint struct{ epoch, sequence uint64 }

// inState looks whether the watcher has published all objects as they are, and returns the newest message of STATE.
func (l *Lab) inState(ctx context.Context, wanted map[string]*schemas.Fact) (at statePoint, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	v := &l.state
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.update(ctx, l.conn); err != nil {
		return at, err
	}
	for subject, fact := range wanted {
		if !proto.Equal(v.facts[subject], fact) {
			return at, fmt.Errorf("the watcher hasn't published %s as it is", subject)
		}
	}
	for subject, fact := range v.facts {
		if wanted[subject] == nil && l.ours(fact) {
			return at, fmt.Errorf("the watcher hasn't published that %s is gone", subject)
		}
	}
	if !v.complete {
		return at, errors.New("the watcher hasn't listed everything yet")
	}
	var epoch schemas.Epoch
	if err := wire.Unmarshal(v.epoch.Data, &epoch); err != nil {
		return at, fmt.Errorf("STATE's epoch can't be read: %w", err)
	}
	return statePoint{epoch.GetEpoch(), v.sequence}, nil
}

// ours says whether a fact that isn't wanted is one that the lab would have removed: of a real API server's objects
// only some are the lab's.
func (l *Lab) ours(fact *schemas.Fact) bool {
	return l.options.Kubeconfig == "" && l.options.Bus == "" && fact.GetCluster() == nil
}

// plain is what a fact says of the object, without its history, number and seal.
func plain(fact *schemas.Fact) *schemas.Fact {
	p := proto.CloneOf(fact)
	p.Object, p.Manager, p.TriggerTime, p.Number, p.Seal = nil, "", nil, 0, nil
	if s := p.GetService(); s != nil {
		s.Created = nil
	}
	return p
}

// errAnotherState is when the compiler hasn't read STATE as far as a change is in it, or reads another epoch of it.
var errAnotherState = errors.New("the compiler is elsewhere in STATE")

// inKernels asks the leading compiler how far every node is.
func (l *Lab) inKernels(ctx context.Context, state statePoint) error {
	status, err := l.Status(ctx)
	if err != nil {
		return err
	}
	if status.GetStateEpoch() != state.epoch || status.GetStateSequence() < state.sequence {
		return fmt.Errorf("%w: fact %d of epoch %d, not %d of %d", errAnotherState,
			status.GetStateSequence(), status.GetStateEpoch(), state.sequence, state.epoch)
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
