// SPDX-License-Identifier: Apache-2.0

// Package core decides what the watcher publishes: it takes what a source saw and returns the facts that STATE lacks.
// It is pure: no clock, no goroutine, no network. What comes out depends on what STATE holds and on what the source
// has, not on the road between them, so a restart with nothing new publishes nothing.
//
// A new Core stands by: it follows the source and STATE, and keeps of the objects only in what the two differ. Lead
// makes it publish the difference, and every further one.
//
// It promises four things. An object is deleted only if a watch saw it go or a complete list lacks it. A list that
// lacks more than a set share of what is published deletes nothing until someone approves. An object that can't be
// used is set aside by name, what was published of it stays, and all others go on. STATE is never taken back to what
// an object was before: a source that hasn't come as far as STATE is waited for.
package core

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/schemas"
)

// DefaultMaxDeleteShare is the share of the published objects that one list may delete.
const DefaultMaxDeleteShare = 0.5

// MinHeld is the number of deletions up to which a list is never held: small clusters change by large shares.
const MinHeld = 10

// Key names an object.
type Key struct{ Kind, Namespace, Name string }

// KeyOf returns the key that ref names.
func KeyOf(ref *schemas.ObjectRef) Key {
	return Key{ref.GetKind(), ref.GetNamespace(), ref.GetName()}
}

// String returns "Kind namespace/name", or "Kind name" for what has no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Options say how a Core judges.
type Options struct {
	// Source names where the objects come from, such as "kubernetes".
	Source string
	// Kinds are the kinds that the source lists; once each was listed, STATE is complete.
	Kinds []string
	// MaxDeleteShare is the share, from 0 to 1, of the published objects of a kind, or of all kinds of a list, that
	// one list may delete. At 1 nothing is held.
	MaxDeleteShare float64
	// Versioned says that versions grow with each change of the source, as Kubernetes' resourceVersion does (KEP-5504).
	Versioned bool
	// Started is when this watcher began: changes that an object dates before that reach STATE late because nobody
	// watched, and count from when they were seen (as in kube-proxy, EndpointsChangeTracker).
	Started time.Time
}

// Input is something a source saw: a List, an Upsert, a Refusal or a Delete.
type Input interface{ input() }

// List is every object of some kinds at one moment.
type List struct {
	Kinds   []string
	Facts   []*schemas.Fact
	Refused []Refusal
	// Version is the source's at that moment; empty if it has none.
	Version string
	// Incomplete says, for people, why objects may be missing from the list. Such a list deletes nothing. Empty
	// means that the list is complete.
	Incomplete string
}

// Upsert is an object's new state.
type Upsert struct{ Fact *schemas.Fact }

// Refusal is an object that is there but can't be used.
type Refusal struct {
	Object *schemas.ObjectRef
	Reason string // for people; names the object and the field
	// Closed is published of the object if nothing is: a policy that can't be read must not open what it selects. Nil
	// for what can be left out.
	Closed *schemas.Fact
}

// Delete is an object that was seen to go.
type Delete struct{ Object *schemas.ObjectRef }

func (List) input()    {}
func (Upsert) input()  {}
func (Refusal) input() {}
func (Delete) input()  {}

// Effects are what a step asks for, to be done in order.
type Effects struct {
	Publish []Publication
	Events  []*schemas.Event
	// Suppressed counts updates that change nothing a data plane needs.
	Suppressed int
}

// Publication is a Fact and its bytes.
type Publication struct {
	Fact *schemas.Fact
	Data []byte
}

// Tombstone says whether the object is gone.
func (p Publication) Tombstone() bool { return p.Fact.State == nil }

// Core is the watcher's state. Its methods are not for use by several goroutines at once.
type Core struct {
	options  Options
	objects  map[Key]object
	counts   map[string]int    // of what STATE has, by kind
	listed   map[string]bool   // kinds; true for those of which a list was complete
	reached  map[string]string // the newest version that the source has told of, by kind
	newest   uint64            // sequence in STATE of the newest fact
	lost     map[string]bool   // Nodes that STATE says are lost
	held     held
	setAside map[Key]string

	epoch    uint64 // in which this watcher leads; 0 while it stands by
	complete bool   // it has said so in this epoch
	said     time.Time
	renewal  time.Duration // after which it says so again
	trusting bool          // the source is right also where its versions are older than STATE's
}

// New returns a Core that stands by, for a STATE that holds nothing; Known tells it what STATE does hold.
func New(options Options) *Core {
	return &Core{
		options: options, objects: map[Key]object{}, counts: map[string]int{}, listed: map[string]bool{},
		reached: map[string]string{}, lost: map[string]bool{}, held: held{keys: map[Key]bool{}}, setAside: map[Key]string{},
	}
}

// Step takes what a source saw at time now. While the Core stands by there are no effects.
func (c *Core) Step(now time.Time, in Input) Effects {
	s := step{Core: c, now: now}
	switch in := in.(type) {
	case List:
		s.list(in)
	case Upsert:
		s.upsert(in.Fact)
	case Refusal:
		s.refuse(bounded(in))
	case Delete:
		s.gone(in.Object)
	default:
		panic(fmt.Sprintf("core: no such input: %T", in))
	}
	s.tellRest()
	return s.effects
}

// Objects returns how many objects of each kind are published.
func (c *Core) Objects() map[string]int { return c.counts }

// Complete says whether STATE holds everything that the source has listed, and says so.
func (c *Core) Complete() bool { return c.complete }

// Ready says whether the source has listed everything: whoever leads then knows what to publish.
func (c *Core) Ready() bool { return len(c.unlisted()) == 0 }

func (c *Core) unlisted() (kinds []string) {
	for _, kind := range c.options.Kinds {
		if _, listed := c.listed[kind]; !listed {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// step is one Step on its way.
type step struct {
	*Core
	now     time.Time
	effects Effects
	told    int // objects that were set aside or are good again
}

// event tells people something. One that stands by says nothing: what it sees the leader sees, too.
func (s *step) event(severity schemas.Severity, kind string, object *schemas.ObjectRef, text string) {
	if s.epoch == 0 {
		return
	}
	s.effects.Events = append(s.effects.Events, &schemas.Event{
		Severity: severity, Service: "watcher", Kind: kind, Text: text, Object: object, Happened: timestamppb.New(s.now),
	})
}
