// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// held are deletions that wait for someone's approval.
type held struct {
	keys  map[Key]bool
	id    string // stands for the keys, or for more: objects that come back leave, which needs no new approval
	since time.Time
}

// tooMany says whether missing is a larger share of any of the kinds, or of them all, than one list may delete.
func (c *Core) tooMany(missing []Key, kinds []string) bool {
	lost, all := map[string]int{}, 0
	for _, key := range missing {
		lost[key.Kind]++
	}
	for _, kind := range kinds {
		all += c.counts[kind]
		if c.exceeds(lost[kind], c.counts[kind]) {
			return true
		}
	}
	return c.exceeds(len(missing), all)
}

func (c *Core) exceeds(deletions, of int) bool {
	return deletions > MinHeld && float64(deletions) > c.options.MaxDeleteShare*float64(of)
}

// settle deletes what a complete list of kinds lacks, or holds it.
func (s *step) settle(kinds []string, missing []Key, hold bool) {
	if s.epoch == 0 {
		return
	}
	before := maps.Clone(s.held.keys)
	maps.DeleteFunc(s.held.keys, func(key Key, _ bool) bool { return slices.Contains(kinds, key.Kind) })
	if !hold {
		s.release(before)
		for _, key := range missing {
			s.bury(key, nil)
		}
		return
	}
	grown := false
	for _, key := range missing {
		s.held.keys[key] = true
		grown = grown || !before[key]
	}
	if !grown {
		return
	}
	if len(before) == 0 {
		s.held.since = s.now
	}
	s.held.id = idOf(s.held.keys)
	s.event(schemas.Severity_SEVERITY_ERROR, "deletions_held", nil, s.heldText())
}

// unhold takes an object that is there after all, or is seen to go, out of what is held.
func (s *step) unhold(key Key) {
	if s.held.keys[key] {
		delete(s.held.keys, key)
		s.release(map[Key]bool{key: true})
	}
}

// release says so when nothing of what was held before is held any more.
func (s *step) release(before map[Key]bool) {
	if len(before) == 0 || len(s.held.keys) > 0 {
		return
	}
	s.event(schemas.Severity_SEVERITY_INFO, "deletions_released", nil,
		fmt.Sprintf("The deletions held as %s need no approval any more: the source has changed", s.held.id))
	s.held = held{keys: map[Key]bool{}}
}

func idOf(keys map[Key]bool) string {
	hash := sha256.New()
	for _, key := range slices.SortedFunc(maps.Keys(keys), compare) {
		fmt.Fprintf(hash, "%q", []string{key.Kind, key.Namespace, key.Name})
	}
	return hex.EncodeToString(hash.Sum(nil)[:4])
}

func (c *Core) heldText() string {
	kinds, first := map[string]int{}, slices.SortedFunc(maps.Keys(c.held.keys), compare)[0]
	for key := range c.held.keys {
		kinds[key.Kind]++
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		parts = append(parts, fmt.Sprintf("%d of %d %s objects", kinds[kind], c.counts[kind], kind))
	}
	return fmt.Sprintf("A list from %s lacks %s, the first being %s, and that is more than the share of %g that one list may delete. "+
		"Nothing is deleted, everything else goes on. If they are meant to be gone, run: deltaplane approve %s",
		c.options.Source, strings.Join(parts, ", "), first, c.options.MaxDeleteShare, c.held.id)
}

// Held returns the deletions that wait for approval; nil if there are none.
func (c *Core) Held() *schemas.HeldDeletions {
	if len(c.held.keys) == 0 {
		return nil
	}
	return &schemas.HeldDeletions{
		Id: c.held.id, Deletions: uint64(len(c.held.keys)), Objects: uint64(c.stated()), Since: timestamppb.New(c.held.since),
	}
}

// stated returns how many objects STATE has.
func (c *Core) stated() (n int) {
	for _, of := range c.counts {
		n += of
	}
	return n
}

// Approve deletes what is held under id. An empty id asks only.
func (c *Core) Approve(now time.Time, id string) (Effects, *schemas.ApproveReply) {
	waiting := c.Held()
	switch {
	case waiting == nil:
		return Effects{}, &schemas.ApproveReply{Text: "no deletions are held: nothing waits for approval"}
	case id == "":
		return Effects{}, &schemas.ApproveReply{Text: c.heldText()}
	case id != waiting.GetId():
		return Effects{}, &schemas.ApproveReply{Text: fmt.Sprintf("no deletions are held as %s. %s", id, c.heldText())}
	}
	s := step{Core: c, now: now}
	keys := slices.SortedFunc(maps.Keys(c.held.keys), compare)
	c.held = held{keys: map[Key]bool{}}
	for _, key := range keys {
		s.bury(key, nil)
	}
	text := fmt.Sprintf("%d deletions that were held as %s are published now", len(keys), id)
	s.event(schemas.Severity_SEVERITY_WARNING, "deletions_approved", nil, text)
	return s.effects, &schemas.ApproveReply{Approved: true, Text: text}
}
