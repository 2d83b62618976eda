// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
)

// causeJSON is one object's change.
type causeJSON struct {
	Kind            string     `json:"kind"`
	Namespace       string     `json:"namespace,omitempty"`
	Name            string     `json:"name"`
	UID             string     `json:"uid,omitempty"`
	ResourceVersion string     `json:"resourceVersion,omitempty"`
	Manager         string     `json:"manager,omitempty"`
	Trigger         *time.Time `json:"trigger,omitempty"`
	Deleted         bool       `json:"deleted,omitempty"`
}

// causesFromProto returns each object once: the deltas of one commit, a layer each, may name it again.
func causesFromProto(list []*schemas.Cause) []causeJSON {
	known := map[string]bool{}
	list = slices.DeleteFunc(slices.Clone(list), func(c *schemas.Cause) bool {
		o := c.GetObject()
		name := o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
		again := known[name]
		known[name] = true
		return again
	})
	return convertAll(list, func(c *schemas.Cause) causeJSON {
		o := c.GetObject()
		return causeJSON{
			o.GetKind(), o.GetNamespace(), o.GetName(), o.GetUid(), o.GetResourceVersion(), c.GetManager(),
			timeOf(c.GetTriggerTime()), c.GetDeleted(),
		}
	})
}

// title returns "Kind namespace/name".
func (c causeJSON) title() string {
	if c.Namespace == "" {
		return c.Kind + " " + c.Name
	}
	return c.Kind + " " + c.Namespace + "/" + c.Name
}

func (c causeJSON) verb() string {
	if c.Deleted {
		return "deleted"
	}
	return "changed"
}
