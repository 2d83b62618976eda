// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// list publishes what is new in a list, deletes what it lacks, and says when STATE is complete.
func (s *step) list(l List) {
	present := make(map[Key]bool, len(l.Facts)+len(l.Refused))
	for _, fact := range l.Facts {
		present[KeyOf(fact.GetObject())] = true
	}
	refused := make([]Refusal, len(l.Refused))
	for i, r := range l.Refused {
		refused[i] = bounded(r)
		present[KeyOf(refused[i].Object)] = true
	}
	missing := s.missing(l.Kinds, present) // before the upserts: shares are of what was published
	hold := s.tooMany(missing, l.Kinds)
	for _, fact := range l.Facts {
		s.upsert(fact)
	}
	for _, r := range refused {
		s.refuse(r)
	}
	if l.Incomplete == "" {
		s.acceptMissing(l.Kinds, present)
		s.settle(l.Kinds, missing, hold)
	}
	for _, kind := range l.Kinds {
		s.listed[kind] = true
	}
	s.sayComplete()
}

// missing returns what is published of kinds and not present, in order.
func (s *step) missing(kinds []string, present map[Key]bool) (keys []Key) {
	for key := range s.published {
		if slices.Contains(kinds, key.Kind) && !present[key] {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compare)
	return keys
}

func (s *step) acceptMissing(kinds []string, present map[Key]bool) {
	for _, key := range slices.SortedFunc(maps.Keys(s.setAside), compare) {
		if slices.Contains(kinds, key.Kind) && !present[key] {
			s.accept(key, &schemas.ObjectRef{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name})
		}
	}
}

// completeKey names the one fact that says that STATE is complete.
var completeKey = Key{Kind: "Complete", Name: "state"}

// sayComplete publishes, once for each source, that all of its objects are in STATE.
func (s *step) sayComplete() {
	if s.complete == s.options.Source || len(s.unlisted()) > 0 {
		return
	}
	s.complete = s.options.Source
	fact := &schemas.Fact{
		Object:      &schemas.ObjectRef{Kind: completeKey.Kind, Name: completeKey.Name},
		TriggerTime: timestamppb.New(s.now),
		State:       &schemas.Fact_Complete{Complete: &schemas.Complete{Source: s.options.Source, Objects: uint64(len(s.published))}},
	}
	data, err := encode(fact)
	if err != nil {
		panic("core: source " + s.options.Source + ": " + err.Error())
	}
	s.effects.Publish = append(s.effects.Publish, Publication{fact, data})
}
