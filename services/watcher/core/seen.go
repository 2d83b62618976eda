// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/deltaplane/deltaplane/schemas"
)

// Sighting is what the source itself says of an object when it is asked. None of its fields says that everything the
// source had to tell was told before.
type Sighting struct {
	Version string // of the object, if it is there and has one
	Gone    bool   // the object isn't there
}

// Seen says how far STATE must be read to have an object as it was sighted, or newer; nil if the source hasn't told of it
// yet, or STATE doesn't have it. An object that is unknown may have a tombstone in STATE. Without a kind it asks for all
// that was told so far.
func (c *Core) Seen(ref *schemas.ObjectRef, at Sighting) *schemas.SeenReply {
	key := KeyOf(ref)
	o := c.objects[key]
	reason, aside := c.setAside[key]
	switch {
	case key.Kind == "":
		return &schemas.SeenReply{StateSequence: c.newest}
	case at.Gone && o.there, c.options.Versioned && !c.trusting && older(c.reached[key.Kind], at.Version):
		return nil
	case aside:
		return &schemas.SeenReply{Refused: reason + asideText}
	case c.held.keys[key]:
		return &schemas.SeenReply{Refused: fmt.Sprintf("%s is gone, and its deletion waits for approval: deltaplane approve %s", key, c.held.id)}
	case o.stated != o.source:
		return nil
	case !o.there:
		return &schemas.SeenReply{StateSequence: c.newest, Unknown: true}
	}
	version := at.Version
	if version == "" {
		version = o.version
	}
	return &schemas.SeenReply{StateSequence: o.sequence, ResourceVersion: version}
}
