// SPDX-License-Identifier: Apache-2.0

package main

import (
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

func causesFromProto(list []*schemas.Cause) []causeJSON {
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
