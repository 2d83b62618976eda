// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// list publishes what is new in a list, deletes what it lacks, and says when STATE is complete.
func (s *step) list(l List) {
	for _, kind := range l.Kinds {
		s.reach(kind, l.Version)
		s.listed[kind] = s.listed[kind] || l.Incomplete == ""
	}
	present := make(map[Key]bool, len(l.Facts)+len(l.Refused))
	for _, fact := range l.Facts {
		present[KeyOf(fact.GetObject())] = true
	}
	refused := make([]Refusal, len(l.Refused))
	for i, r := range l.Refused {
		refused[i] = bounded(r)
		present[KeyOf(refused[i].Object)] = true
	}
	if l.Incomplete == "" {
		s.attend(l.Kinds, present)
	}
	missing := s.missing(l.Kinds) // before the upserts: shares are of what was published
	hold := s.tooMany(missing, l.Kinds)
	for _, fact := range l.Facts {
		s.upsert(fact)
	}
	for _, r := range refused {
		s.refuse(r)
	}
	if l.Incomplete == "" {
		s.settle(l.Kinds, missing, hold)
	}
	s.sayComplete()
}

// attend takes that the source has no objects of kinds but those present.
func (s *step) attend(kinds []string, present map[Key]bool) {
	for key, o := range s.objects {
		switch {
		case !slices.Contains(kinds, key.Kind):
		case present[key]:
			o.there, o.went = true, false
			s.put(key, o)
		default:
			o.there, o.went, o.source, o.wanted = false, false, digest{}, nil
			s.put(key, o)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.setAside), compare) {
		if slices.Contains(kinds, key.Kind) && !present[key] {
			s.accept(key, key.ref())
		}
	}
}

// missing returns what STATE has of kinds and the source hasn't, in order, but for what was seen to go.
func (s *step) missing(kinds []string) (keys []Key) {
	for key, o := range s.objects {
		if !o.there && !o.went && slices.Contains(kinds, key.Kind) && !s.ahead(key, o) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compare)
	return keys
}

// completeKey names the one fact that says that STATE is complete.
var completeKey = Key{Kind: "Complete", Name: "state"}

// sayComplete publishes, once in each epoch, that all objects of the source are in STATE.
func (s *step) sayComplete() {
	if s.epoch == 0 || s.complete || !s.Ready() || s.lacking() {
		return
	}
	s.complete, s.said = true, s.now
	fact := &schemas.Fact{
		Object:      completeKey.ref(),
		TriggerTime: timestamppb.New(s.now),
		State:       &schemas.Fact_Complete{Complete: &schemas.Complete{Source: s.options.Source, Objects: uint64(s.stated()), Epoch: s.epoch}},
	}
	data, err := encode(fact)
	if err != nil {
		panic("core: source " + s.options.Source + ": " + err.Error())
	}
	s.effects.Publish = append(s.effects.Publish, Publication{fact, data})
}

// STATE is said to be complete again and again while one leads, soon at first, then every completeEvery. STATE forgets
// tombstones, and whoever reads it must not take a STATE whose newest message was one for an old STATE. And after STATE was
// lost a compiler that has just started waits for a list that is newer than what DELTA has, by clocks that may differ.
const (
	completeSoon  = 10 * time.Second
	completeEvery = schemas.TombstoneTTL / 24
)

// Renew says anew that STATE is complete, once in a while.
func (c *Core) Renew(now time.Time) Effects {
	s := step{Core: c, now: now}
	if s.complete && now.Sub(s.said) >= s.renewal && !s.lacking() {
		s.complete, s.renewal = false, min(2*s.renewal, completeEvery)
		s.sayComplete()
	}
	return s.effects
}

// lacking says whether STATE lacks something that the source has told earlier and must tell again.
func (s *step) lacking() bool {
	for key, o := range s.objects {
		if o.there && o.source != (digest{}) && o.stated != o.source && !s.ahead(key, o) {
			return true
		}
	}
	return false
}
