// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/deltaplane/deltaplane/internal/model"
)

// check refuses rows that would make a packet's path end at nothing, and names that don't fit.
func (t *transaction) check() error {
	for _, kind := range kinds {
		if err := t.checkPuts(&t.changes[kind].Put, kind); err != nil {
			return err
		}
	}
	if err := t.checkJudged(); err != nil {
		return err
	}
	for id, before := range t.setsBefore {
		if _, kind := t.set(id); kind != 0 {
			continue
		}
		if n := t.pointersTo[id]; n > 0 {
			return refuse("rows", "the change removes set %d of %s, which %d frontends or views still point at", id, before.row.Service, n)
		}
		for _, b := range t.slotsBefore[id] {
			if _, kept := t.tables[before.kind].Members[model.Member{Set: id, Backend: b}]; kept && b != 0 {
				return refuse("rows", "the change removes set %d of %s but not its member backend %d", id, before.row.Service, b)
			}
		}
	}
	for id, before := range t.backendsBefore {
		if _, kind := t.backend(id); kind == 0 && t.slotsOf[id] > 0 {
			return refuse("rows", "the change removes backend %d (%s port %d), which is still a member of a set",
				id, before.row.Addr, before.row.Port)
		}
	}
	return nil
}

func (t *transaction) checkPuts(put *model.Rows, kind model.LayerKind) error {
	for _, s := range put.Sets {
		if s.ID == 0 || len(s.Service.Namespace)+1+len(s.Service.Name) > serviceMax {
			return refuse("rows", "set %d of %s: its id is 0 or its name longer than %d bytes", s.ID, s.Service, serviceMax)
		}
	}
	for _, b := range put.Backends {
		if b.ID == 0 || !b.Addr.IsValid() {
			return refuse("rows", "backend %d of %s: its id is 0 or it has no address", b.ID, t.serviceOf(b.Set))
		}
	}
	for _, f := range put.Frontends {
		if f.Set == 0 && f.Kind == model.FrontendRefused {
			continue
		}
		if _, at := t.set(f.Set); at == 0 {
			return refuse("rows", "frontend %s points at set %d, which does not exist", f.FrontendKey, f.Set)
		}
	}
	for _, v := range put.Views {
		if err := t.fits(v); err != nil {
			return err
		}
	}
	for _, s := range put.Sets {
		if err := t.stillFits(s); err != nil {
			return err
		}
	}
	for _, m := range put.Members {
		set, held := t.tables[kind].Sets[m.Set]
		if !held {
			return refuse("rows", "backend %d is to join set %d, which does not exist in layer %s", m.Backend, m.Set, word(kind))
		}
		b, at := t.backend(m.Backend)
		if at == 0 {
			return refuse("rows", "set %d of %s is to have backend %d, which does not exist", m.Set, t.serviceOf(m.Set), m.Backend)
		}
		if b.Set != set.Root {
			return refuse("rows", "set %d of %s, a part of set %d, is to have backend %d, which is of set %d",
				m.Set, set.Service, set.Root, m.Backend, b.Set)
		}
	}
	for _, e := range put.Endpoints {
		if len(e.Pod) > podMax {
			return refuse("rows", "endpoint %s: the pod's name is longer than %d bytes", e.Addr, podMax)
		}
	}
	for _, n := range put.Nodes {
		if n.ID == 0 || !n.V4.IsValid() && !n.V6.IsValid() {
			return refuse("rows", "node 0x%08x: its number is 0 or it has no address", uint32(n.ID))
		}
	}
	for _, h := range put.HealthChecks {
		if h.Port == 0 || len(h.Namespace)+1+len(h.Name) > serviceMax {
			return refuse("rows", "health check at port %d of %s/%s: its port is 0 or its name longer than %d bytes",
				h.Port, h.Namespace, h.Name, serviceMax)
		}
	}
	for _, s := range put.Selves {
		if len(s.Zone) > zoneMax {
			return refuse("rows", "the node's zone %q is longer than %d bytes", s.Zone, zoneMax)
		}
	}
	return t.checkPolicy(put)
}

// stillFits refuses another meaning of a set while a view that doesn't change leads to it.
func (t *transaction) stillFits(s model.BackendSet) error {
	if !t.wasRead[s.ID] {
		return nil
	}
	for _, row := range []model.BackendSet{s, t.setsBefore[s.ID].row} {
		key := model.ViewKey{Set: row.Root, Scope: row.Scope}
		if row.Scope == model.ScopeZone {
			key.Place = row.Place
		}
		for _, kind := range kinds {
			if v, held := t.tables[kind].Views[key]; held && v.Target == s.ID {
				if err := t.fits(v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fits refuses a view that leads nowhere, or to another Service than its root's.
func (t *transaction) fits(v model.View) error {
	target, at := t.set(v.Target)
	if at == 0 {
		return refuse("rows", "a view of set %d leads to set %d, which does not exist", v.Set, v.Target)
	}
	root, at := t.set(v.Set)
	if target.Root != v.Set || at != 0 && (target.Service != root.Service || target.Family != root.Family) {
		return refuse("rows", "a view of set %d (%s) leads to set %d, which is a part of set %d (%s)",
			v.Set, root.Service, v.Target, target.Root, target.Service)
	}
	return nil
}
