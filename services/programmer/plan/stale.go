// SPDX-License-Identifier: Apache-2.0

package plan

import "github.com/deltaplane/deltaplane/internal/model"

// stale is what programs may still have found before the last changes, since no grace period has passed that the plan
// knows of: identities that addresses have left, rule sets that endpoints have left, and that an address was no peer.
type stale struct {
	identities map[model.IdentityID]bool
	sets       map[model.RuleSetID]bool
	noPeer     bool
	all        bool // anything: the maps were read anew
}

func newStale() stale {
	return stale{identities: map[model.IdentityID]bool{}, sets: map[model.RuleSetID]bool{}}
}

// staleMost bounds what is kept: then the next change waits.
const staleMost = 4096

// seen says whether a program may still look for a verdict, though nothing leads to it.
func (t *transaction) seen(k model.VerdictKey) bool {
	s := &t.stale
	if s.all {
		return true
	}
	left := s.identities[k.Identity]
	return s.sets[k.RuleSet] && (left || k.Identity == 0 || t.wasHeld(k.Identity)) || left && t.wasJudged(k.RuleSet)
}

// astrayMost bounds how much is compared to find out whether a change has to wait.
const astrayMost = 1 << 14

// astray says whether a program that found a rule set, which judges that endpoint no more, could find an address that
// moves now where it has come to, and be told what no rows have ever said.
func (t *transaction) astray(m *moving) bool {
	if len(t.stale.sets)*len(m.list) > astrayMost {
		return true
	}
	for id := range t.stale.sets {
		for _, move := range m.list {
			was := t.then(id, move.from)
			if t.uses.decided[id] == 0 || t.then(id, move.to) != was || t.now(id, move.to) != was {
				return true
			}
		}
	}
	return false
}

// note adds what this change leaves behind.
func (s *stale) note(left map[model.IdentityID]bool, turned []pointer, noPeer bool) {
	for id := range left {
		s.identities[id] = true
	}
	for _, p := range turned {
		s.sets[p.before] = true
	}
	s.noPeer = s.noPeer || noPeer
	s.all = s.all || len(s.identities)+len(s.sets) > staleMost
}
