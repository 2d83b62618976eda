// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// Lead begins to publish, in an epoch of STATE that this watcher has taken, and with what STATE lacks so far. All that
// STATE holds is Known.
func (c *Core) Lead(now time.Time, epoch uint64) Effects {
	s := step{Core: c, now: now}
	s.epoch, s.renewal = epoch, completeSoon
	for _, key := range slices.SortedFunc(maps.Keys(s.setAside), compare) {
		s.tell(schemas.Severity_SEVERITY_WARNING, "object_set_aside", key.ref(), s.setAside[key]+asideText)
	}
	kinds := slices.DeleteFunc(slices.Sorted(maps.Keys(s.listed)), func(kind string) bool { return !s.listed[kind] })
	missing := s.missing(kinds)
	hold := s.tooMany(missing, kinds)
	for _, key := range s.differing() {
		if o := s.objects[key]; o.there {
			s.say(key)
		} else if o.went {
			s.bury(key, nil)
		}
	}
	s.settle(kinds, missing, hold)
	s.sayComplete()
	s.tellRest()
	return s.effects
}

// differing returns the objects of which STATE says something else than the source, in order.
func (c *Core) differing() (keys []Key) {
	for key, o := range c.objects {
		if o.stated != o.source && (!o.there || o.source != (digest{})) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compare)
	return keys
}

// Owed returns objects of which STATE should say what the source does, and can't yet: STATE is ahead of the source, or
// was changed by another after the source had told what it has. The source tells soon, or has to be asked anew: Trust.
func (c *Core) Owed() (keys []Key) {
	for _, key := range c.differing() {
		if o := c.objects[key]; c.listed[key.Kind] && !c.held.keys[key] && (o.there || c.ahead(key, o)) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Trust has the source be right about everything from now on, whatever its versions: what it says next it was asked for
// after this watcher had begun to lead, so nobody has published what is newer. An API server whose etcd was restored
// from a backup has older versions than STATE.
func (c *Core) Trust(now time.Time) Effects {
	s := step{Core: c, now: now}
	if owed := c.Owed(); len(owed) > 0 {
		s.event(schemas.Severity_SEVERITY_WARNING, "source_behind", owed[0].ref(), fmt.Sprintf(
			"STATE says something else or newer about %d objects than %s has told, the first being %s: another watcher has published that, "+
				"or %s was restored from a backup. Everything is listed anew, and what the list says holds",
			len(owed), c.options.Source, owed[0], c.options.Source))
	}
	c.trusting = true
	return s.effects
}

func (k Key) ref() *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}
