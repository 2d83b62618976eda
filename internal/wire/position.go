// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// PositionToProto returns how far a layer has come as a message.
func PositionToProto(l model.Layer, p model.Position) *schemas.Position {
	return &schemas.Position{
		Layer: l.String(), Epoch: uint64(p.Epoch), Revision: uint64(p.Revision), Digest: p.Digest.Bytes(),
	}
}

// PositionFromProto checks and returns a position.
func PositionFromProto(m *schemas.Position) (model.Layer, model.Position, error) {
	l, errLayer := layer(m.GetLayer())
	digest, errDigest := model.DigestOf(m.GetDigest())
	p := model.Position{Epoch: model.Epoch(m.GetEpoch()), Revision: model.Revision(m.GetRevision()), Digest: digest}
	return l, p, first(errLayer, errDigest)
}

// PositionsToProto returns positions as messages, in no particular order.
func PositionsToProto(positions map[model.Layer]model.Position) []*schemas.Position {
	all := make([]*schemas.Position, 0, len(positions))
	for l, p := range positions {
		all = append(all, PositionToProto(l, p))
	}
	return all
}

// PositionsFromProto checks and returns positions; a layer may stand there once.
func PositionsFromProto(messages []*schemas.Position) (map[model.Layer]model.Position, error) {
	positions := make(map[model.Layer]model.Position, len(messages))
	for i, m := range messages {
		l, p, err := PositionFromProto(m)
		if err != nil {
			return nil, foreign("position %d: %w", i, err)
		}
		if _, twice := positions[l]; twice {
			return nil, foreign("position %d: layer %s stands there twice", i, l)
		}
		positions[l] = p
	}
	return positions, nil
}

// CauseToProto returns a cause as a message. What sources may fill at will is made to fit the bounds: a cause is for
// people, and must not make a delta unreadable.
func CauseToProto(c model.Cause) *schemas.Cause {
	return &schemas.Cause{
		Object: &schemas.ObjectRef{
			Kind: Clean(c.Kind, MaxName), Namespace: Clean(c.Namespace, MaxName), Name: Clean(c.Name, MaxName),
			Uid: Clean(c.UID, MaxOpaque), ResourceVersion: Clean(c.ResourceVersion, MaxOpaque),
		},
		Manager: Clean(c.Manager, MaxName), TriggerTime: timeToProto(c.Trigger), Deleted: c.Deleted,
	}
}

// CauseFromProto checks and returns a cause.
func CauseFromProto(m *schemas.Cause) (model.Cause, error) {
	o := m.GetObject()
	trigger, errTrigger := timeFromProto("trigger time", m.GetTriggerTime())
	return model.Cause{
		Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUid(),
		ResourceVersion: o.GetResourceVersion(), Manager: m.GetManager(), Trigger: trigger, Deleted: m.GetDeleted(),
	}, first(errTrigger, checkRef(o), text("manager", m.GetManager(), MaxName))
}

func checkRef(o *schemas.ObjectRef) error {
	return first(
		Name("kind", o.GetKind()), text("namespace", o.GetNamespace(), MaxName), text("name", o.GetName(), MaxName),
		text("uid", o.GetUid(), MaxOpaque), text("resource version", o.GetResourceVersion(), MaxOpaque),
	)
}

// Heartbeat is a decoded schemas.Heartbeat.
type Heartbeat struct {
	Epoch     model.Epoch
	Revision  model.Revision
	Positions map[model.Layer]model.Position
	Sent      time.Time // by the compiler's clock
}

// DecodeHeartbeat checks and returns a heartbeat.
func DecodeHeartbeat(data []byte) (Heartbeat, error) {
	var m schemas.Heartbeat
	if err := Unmarshal(data, &m); err != nil {
		return Heartbeat{}, err
	}
	positions, err := PositionsFromProto(m.GetPositions())
	if err == nil && m.GetEpoch() == 0 {
		err = foreign("heartbeat of epoch 0")
	}
	var sent time.Time
	if err == nil {
		sent, err = timeFromProto("sent", m.GetSent())
	}
	if err != nil {
		return Heartbeat{}, fmt.Errorf("heartbeat: %w", err)
	}
	return Heartbeat{
		Epoch: model.Epoch(m.GetEpoch()), Revision: model.Revision(m.GetRevision()), Positions: positions, Sent: sent,
	}, nil
}
