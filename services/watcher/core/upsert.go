// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
)

// upsert takes what an object is now, and publishes it unless STATE already says so.
func (s *step) upsert(fact *schemas.Fact) {
	key := KeyOf(fact.GetObject())
	s.unhold(key)
	s.reach(key.Kind, fact.GetObject().GetResourceVersion())
	o := s.objects[key]
	sum, err := digestOf(fact)
	if err != nil {
		s.refuse(Refusal{Object: fact.GetObject(), Reason: fmt.Sprintf("%s: %v", key, err)})
		return
	}
	carried := fact.GetTriggerTime()
	stamped := &schemas.Fact{
		Object: fact.GetObject(), TriggerTime: timestamppb.New(s.trigger(carried, o.trigger)),
		Manager: fact.GetManager(), State: fact.State,
	}
	if carried != nil {
		o.trigger = carried.AsTime()
	}
	if o.stated != sum {
		data, err := encode(stamped)
		if err != nil {
			s.refuse(Refusal{Object: fact.GetObject(), Reason: fmt.Sprintf("%s: %v", key, err)})
			return
		}
		o.wanted = &Publication{stamped, data}
	} else {
		s.effects.Suppressed++
	}
	o.there, o.went, o.source = true, false, sum
	s.put(key, o)
	s.accept(key, fact.GetObject())
	s.say(key)
}

// say publishes what the source says of an object and STATE doesn't.
func (s *step) say(key Key) {
	o := s.objects[key]
	if s.epoch == 0 || o.wanted == nil || s.ahead(key, o) {
		return
	}
	s.effects.Publish = append(s.effects.Publish, *o.wanted)
	s.state(key, o.wanted.Fact, o.source, 0)
}

// trigger returns the time that an object carries if that can be when this change came about: not before the watcher
// started, not after now, and not the time of an earlier change that the object still carries.
func (s *step) trigger(carries *timestamppb.Timestamp, before time.Time) time.Time {
	carried := carries.AsTime()
	if carries == nil || carried.Before(s.options.Started) || carried.After(s.now) || carried.Equal(before) {
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
	if len(data) > mostBytes {
		return nil, fmt.Errorf("what a data plane needs of it is %d bytes, more than the %d that one message of the bus holds; "+
			"split the object", len(data), mostBytes)
	}
	return data, nil
}

// gone takes that an object was seen to go, and publishes its tombstone if it was published.
func (s *step) gone(ref *schemas.ObjectRef) {
	key := KeyOf(ref)
	s.unhold(key)
	s.reach(key.Kind, ref.GetResourceVersion())
	s.accept(key, ref)
	if o, known := s.objects[key]; known {
		o.there, o.went, o.source, o.wanted = false, true, digest{}, nil
		s.put(key, o)
	}
	s.bury(key, ref)
}

// bury publishes the tombstone of what is at key; ref, which may be nil, has the version that was deleted.
func (s *step) bury(key Key, ref *schemas.ObjectRef) {
	o := s.objects[key]
	if s.epoch == 0 || o.stated == (digest{}) || s.ahead(key, o) {
		return
	}
	fact := &schemas.Fact{
		Object: &schemas.ObjectRef{
			Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, Uid: o.uid, ResourceVersion: ref.GetResourceVersion(),
		},
		TriggerTime: timestamppb.New(s.now),
	}
	data, err := proto.Marshal(fact)
	if err != nil {
		panic(fmt.Sprintf("core: tombstone of %s: %v", key, err)) // Its names were encoded before.
	}
	s.effects.Publish = append(s.effects.Publish, Publication{fact, data})
	s.state(key, fact, digest{}, 0)
}

// mostBytes bounds a fact: it must fit a message of the bus, with a seal.
const mostBytes = schemas.MaxMessageBytes - seal.Room
