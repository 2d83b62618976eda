// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// object is what is known of one object: what the source says of it, and what STATE does.
type object struct {
	there   bool         // the source has it
	went    bool         // a watch saw it go: no list lacks it by mistake
	source  digest       // of what the source says; zero if it has nothing, or nothing that can be used
	trigger time.Time    // as the source's object last carried it; zero if it carried none
	wanted  *Publication // what the source says. Invariant: nil if STATE says the same

	stated   digest // of what STATE says; zero if it has nothing
	uid      string // of what STATE has
	version  string // of what STATE has, or of the tombstone
	sequence uint64 // in STATE
}

// put keeps what is known of an object, and counts it.
func (c *Core) put(key Key, o object) {
	if o.stated == o.source {
		o.wanted = nil
	}
	before := c.objects[key]
	if was, is := before.stated != (digest{}), o.stated != (digest{}); was != is {
		c.counts[key.Kind]--
		if is {
			c.counts[key.Kind] += 2
		}
	}
	if !o.there && o.stated == (digest{}) {
		delete(c.objects, key)
		return
	}
	c.objects[key] = o
}

// state notes what STATE says of an object now.
func (c *Core) state(key Key, fact *schemas.Fact, sum digest, sequence uint64) {
	o := c.objects[key]
	o.stated, o.sequence = sum, sequence
	o.uid, o.version = fact.GetObject().GetUid(), fact.GetObject().GetResourceVersion()
	if fact.GetNode().GetLost() {
		c.lost[key.Name] = true
	} else if key.Kind == kindNode {
		delete(c.lost, key.Name)
	}
	c.put(key, o)
}

// kindNode is the kind of which one may be lost.
const kindNode = "Node"

// Known takes one fact that STATE holds, and where it stands there. All that is there is given before the first Step,
// and what comes later as long as this watcher stands by.
func (c *Core) Known(fact *schemas.Fact, sequence uint64) {
	c.newest = max(c.newest, sequence)
	key := KeyOf(fact.GetObject())
	switch {
	case fact.GetComplete() != nil:
	case fact.State == nil:
		c.state(key, fact, digest{}, sequence)
	default:
		sum, err := digestOf(fact)
		if err != nil {
			return // What can't be compared is published anew.
		}
		c.state(key, fact, sum, sequence)
	}
}

// foreign stands for what STATE says of an object that this watcher hasn't said: no fact has this digest, so what the
// source says is always another.
var foreign = digest{0: 1}

// Foreign takes a message of STATE that this watcher hasn't sealed, or that is no fact, or one that was put back: of an
// object that the source has the fact is said anew, any other is said to be gone. Else it is Known.
func (c *Core) Foreign(fact *schemas.Fact, sequence uint64) {
	c.newest = max(c.newest, sequence)
	key := KeyOf(fact.GetObject())
	if key.Kind == completeKey.Kind {
		return // it is said in each epoch
	}
	c.state(key, &schemas.Fact{Object: key.ref()}, foreign, sequence)
	if !slices.Contains(c.options.Kinds, key.Kind) {
		o := c.objects[key]
		o.went = true // no list tells of it
		c.put(key, o)
	}
}

// Stored says that publications were appended to STATE in order, the last of them at sequence last.
func (c *Core) Stored(publications []Publication, last uint64) {
	c.newest = max(c.newest, last)
	first := last + 1 - uint64(len(publications))
	for i, p := range publications {
		key := KeyOf(p.Fact.GetObject())
		if o, known := c.objects[key]; known {
			o.sequence = first + uint64(i)
			c.objects[key] = o
		}
	}
}

// Lost returns the Nodes that STATE says are lost.
func (c *Core) Lost() map[string]bool { return maps.Clone(c.lost) }

// reach notes how far the source has come.
func (c *Core) reach(kind, version string) {
	if older(c.reached[kind], version) {
		c.reached[kind] = version
	}
}

// ahead says whether STATE has an object in a version that this watcher's source has not come to yet. Another watcher
// has published it; what the source said before is older, and what it will say is awaited.
func (c *Core) ahead(key Key, o object) bool {
	return c.options.Versioned && !c.trusting && older(c.reached[key.Kind], o.version)
}

// older says whether a is an earlier version than b. Versions are decimal numbers without leading zeroes (KEP-5504); what
// isn't compares as neither, and none as the first.
func older(a, b string) bool {
	return number(a) && number(b) && (len(a) < len(b) || len(a) == len(b) && a < b)
}

func number(version string) bool {
	for i := range len(version) {
		if version[i] < '0' || version[i] > '9' {
			return false
		}
	}
	return version == "" || version[0] != '0'
}
