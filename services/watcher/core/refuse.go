// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/schemas"
)

// What is told of one object is bounded, in bytes: it must fit a message of the bus whatever a file holds.
const (
	maxReason = 1 << 10
	maxName   = 512 // Kubernetes allows 253; a document is named by its path
	maxTold   = 100 // events in one step
)

// bounded returns r with texts that an event can carry.
func bounded(r Refusal) Refusal {
	o := r.Object
	return Refusal{
		Object: &schemas.ObjectRef{
			Kind: cut(o.GetKind(), maxName), Namespace: cut(o.GetNamespace(), maxName), Name: cut(o.GetName(), maxName),
			Uid: cut(o.GetUid(), maxName), ResourceVersion: cut(o.GetResourceVersion(), maxName),
		},
		Reason: cut(r.Reason, maxReason), Closed: r.Closed,
	}
}

// cut returns text if it is short, else its start and how long it was.
func cut(text string, most int) string {
	if len(text) <= most {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text[:most], ""), len(text))
}

// asideText ends what is said of an object that is set aside.
const asideText = ". The object is set aside, what was known of it before stays, and all others go on"

// refuse sets an object aside and says so once. What was published of it stays: an object that can't be read is no
// object that is gone.
func (s *step) refuse(r Refusal) {
	key := KeyOf(r.Object)
	s.unhold(key)
	s.reach(key.Kind, r.Object.GetResourceVersion())
	o := s.objects[key]
	o.there, o.went, o.source, o.wanted = true, false, digest{}, nil
	s.put(key, o)
	if o.stated == (digest{}) && r.Closed != nil && KeyOf(r.Closed.GetObject()) == key {
		s.upsert(r.Closed)
	}
	if s.setAside[key] == r.Reason {
		return
	}
	s.setAside[key] = r.Reason
	s.tell(schemas.Severity_SEVERITY_WARNING, "object_set_aside", r.Object, r.Reason+asideText)
}

// accept ends an object's being set aside, because it is good again or gone.
func (s *step) accept(key Key, ref *schemas.ObjectRef) {
	if _, aside := s.setAside[key]; !aside {
		return
	}
	delete(s.setAside, key)
	s.tell(schemas.Severity_SEVERITY_INFO, "object_accepted", ref, key.String()+": what was wrong with it is gone")
}

// tell makes an event of one object, up to maxTold in a step: a flood would drown what else is said.
func (s *step) tell(severity schemas.Severity, kind string, object *schemas.ObjectRef, text string) {
	if s.told++; s.told <= maxTold {
		s.event(severity, kind, object, text)
	}
}

// tellRest says how many objects were not told of one by one.
func (s *step) tellRest() {
	if rest := s.told - maxTold; rest > 0 {
		s.event(schemas.Severity_SEVERITY_WARNING, "object_set_aside", nil,
			fmt.Sprintf("%d more objects are set aside or good again; `deltaplane status` names those that are set aside", rest))
	}
}

// SetAside returns the objects that can't be used and why, ordered by kind and name.
func (c *Core) SetAside() []*schemas.SetAside {
	var out []*schemas.SetAside
	for _, key := range slices.SortedFunc(maps.Keys(c.setAside), compare) {
		out = append(out, &schemas.SetAside{
			Object: key.ref(), Reason: c.setAside[key],
		})
	}
	return out
}

func compare(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
