// SPDX-License-Identifier: Apache-2.0

// Package live knows which objects that were published are in the kernel of every node, and which take long to get
// there. It is pure: it says what to ask the leading compiler, and takes in the answers.
//
// An object is live once the compiler has taken in its fact, and no node lacks the revision that it was at then. What
// waits is bounded: of a flood of changes the newest of each object are followed, up to most.
package live

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

const (
	// LagAfter is how long it takes until an object that isn't live is said to lag.
	LagAfter = 10 * time.Second
	// forgetAfter is how long an object that lags is followed.
	forgetAfter = time.Hour
	// most bounds the objects that are followed; of more, the oldest are forgotten.
	most = 1000
	// namesTold bounds the nodes that are named.
	namesTold = 5
)

// News is what there is to be told of an object.
type News struct {
	Object *schemas.ObjectRef
	Live   bool   // else it lags
	Text   string // for people
}

// Watch follows objects. The zero value follows none yet.
type Watch struct {
	waiting []object // by sequence
}

type object struct {
	ref       *schemas.ObjectRef
	sequence  uint64 // in STATE
	published time.Time
	revision  uint64 // by which it is in the nodes' layers; 0 while the compiler hasn't taken it in
	lags      bool   // it was said
}

// Published follows an object from now on, in place of what it was before.
func (w *Watch) Published(now time.Time, ref *schemas.ObjectRef, sequence uint64) {
	w.waiting = slices.DeleteFunc(w.waiting, func(o object) bool {
		return core.KeyOf(o.ref) == core.KeyOf(ref) || now.Sub(o.published) > forgetAfter
	})
	if len(w.waiting) == most {
		w.waiting = slices.Delete(w.waiting, 0, 1)
	}
	w.waiting = append(w.waiting, object{ref: ref, sequence: sequence, published: now})
}

// Questions returns the revisions to ask the compiler about, in order: who lacks them?
func (w *Watch) Questions() (revisions []uint64) {
	if len(w.waiting) == 0 {
		return nil
	}
	revisions = []uint64{1} // also tells how far the compiler has come
	for _, o := range w.waiting {
		if o.revision > 0 {
			revisions = append(revisions, o.revision)
		}
	}
	slices.Sort(revisions)
	revisions = slices.Compact(revisions)
	// A node that lacks one lacks all after it: the first and the last tell the most.
	return slices.Compact([]uint64{revisions[0], revisions[min(1, len(revisions)-1)], revisions[len(revisions)-1]})
}

// Take takes in the compiler's answer to one of the questions.
func (w *Watch) Take(now time.Time, asked uint64, s *schemas.Status) (news []News) {
	w.waiting = slices.DeleteFunc(w.waiting, func(o object) bool {
		if o.revision == 0 || o.revision > asked || s.GetRevision() < asked || s.GetNodesLacking() > 0 {
			return false
		}
		news = append(news, News{Object: o.ref, Live: true, Text: everywhere(s)})
		return true
	})
	for i := range w.waiting {
		o := &w.waiting[i]
		if o.revision == 0 && o.sequence <= s.GetStateSequence() {
			o.revision = max(s.GetRevision(), 1)
		}
		if o.lags || now.Sub(o.published) < LagAfter {
			continue
		}
		switch {
		case o.revision == 0:
			news = append(news, News{Object: o.ref, Text: "The compiler has not taken the object in yet: deltaplane status"})
			o.lags = true
		case o.revision <= asked && s.GetNodesLacking() > 0:
			news = append(news, News{Object: o.ref, Text: lacking(s)})
			o.lags = true
		}
	}
	return news
}

func everywhere(s *schemas.Status) string {
	there := s.GetNodesTotal() - min(s.GetNodesLost(), s.GetNodesTotal())
	text := fmt.Sprintf("In the kernel of all %d nodes", there)
	if lost := s.GetNodesLost(); lost > 0 {
		text += fmt.Sprintf("; %d more are lost and not waited for", lost)
	}
	return text
}

func lacking(s *schemas.Status) string {
	var names []string
	for _, node := range s.GetNodes()[:min(len(s.GetNodes()), namesTold)] {
		name := node.GetNode()
		if why := node.GetReason(); why != "" {
			name += " (" + why + ")"
		}
		names = append(names, name)
	}
	text := fmt.Sprintf("Not in the kernel of %d of %d nodes yet", s.GetNodesLacking(), s.GetNodesTotal())
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	if more := s.GetNodesLacking() - uint64(len(names)); more > 0 && len(names) > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
