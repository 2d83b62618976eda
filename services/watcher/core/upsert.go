// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// upsert publishes fact unless STATE already says so.
func (s *step) upsert(fact *schemas.Fact) {
	key := KeyOf(fact.GetObject())
	s.unhold(key)
	before, known := s.published[key]
	digest, err := digestOf(fact)
	if err != nil {
		s.refuse(Refusal{Object: fact.GetObject(), Reason: fmt.Sprintf("%s: %v", key, err)})
		return
	}
	if known && before.digest == digest {
		s.effects.Suppressed++
		s.accept(key, fact.GetObject())
		return
	}
	now := entry{digest: digest, uid: fact.GetObject().GetUid()}
	if fact.GetTriggerTime() != nil {
		now.trigger = fact.GetTriggerTime().AsTime()
	}
	stamped := &schemas.Fact{
		Object: fact.GetObject(), TriggerTime: timestamppb.New(s.trigger(now.trigger, before.trigger)),
		Manager: fact.GetManager(), State: fact.State,
	}
	data, err := encode(stamped)
	if err != nil {
		s.refuse(Refusal{Object: fact.GetObject(), Reason: fmt.Sprintf("%s: %v", key, err)})
		return
	}
	s.accept(key, fact.GetObject())
	s.remember(key, now)
	s.effects.Publish = append(s.effects.Publish, Publication{stamped, data})
}

// trigger returns the time that an object carries if that can be when this change came about: not before the watcher
// started, not after now, and not the time of an earlier change that the object still carries.
func (s *step) trigger(carried, before time.Time) time.Time {
	if carried.Before(s.options.Started) || carried.After(s.now) || carried.Equal(before) {
		return s.now
	}
	return carried
}

// encode returns a fact's bytes, or an error if the bus can't carry them.
func encode(fact *schemas.Fact) ([]byte, error) {
	data, err := proto.Marshal(fact)
	if err != nil {
		return nil, err
	}
	if len(data) > schemas.MaxMessageBytes {
		return nil, fmt.Errorf("what a data plane needs of it is %d bytes, more than the %d that one message of the bus holds; "+
			"split the object", len(data), schemas.MaxMessageBytes)
	}
	return data, nil
}

// gone publishes the tombstone of an object, if it was published.
func (s *step) gone(ref *schemas.ObjectRef) {
	key := KeyOf(ref)
	s.unhold(key)
	s.accept(key, ref)
	s.bury(key, ref)
}

// bury publishes the tombstone of what is at key; ref, which may be nil, has the version that was deleted.
func (s *step) bury(key Key, ref *schemas.ObjectRef) {
	before, known := s.published[key]
	if !known {
		return
	}
	s.forget(key)
	fact := &schemas.Fact{
		Object: &schemas.ObjectRef{
			Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, Uid: before.uid, ResourceVersion: ref.GetResourceVersion(),
		},
		TriggerTime: timestamppb.New(s.now),
	}
	data, err := proto.Marshal(fact)
	if err != nil {
		panic(fmt.Sprintf("core: tombstone of %s: %v", key, err)) // Its names were encoded before.
	}
	s.effects.Publish = append(s.effects.Publish, Publication{fact, data})
}
