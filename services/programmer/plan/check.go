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
	for id, before := range t.setsBefore {
		if _, kind := t.set(id); kind != 0 {
			continue
		}
		if n := t.frontendsOf[id]; n > 0 {
			return refuse("rows", "the change removes set %d of %s, which %d frontends still point at", id, before.row.Service, n)
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
		if _, at := t.set(f.Set); at == 0 {
			return refuse("rows", "frontend %s points at set %d, which does not exist", f.FrontendKey, f.Set)
		}
	}
	for _, m := range put.Members {
		if _, held := t.tables[kind].Sets[m.Set]; !held {
			return refuse("rows", "backend %d is to join set %d, which does not exist in layer %s", m.Backend, m.Set, word(kind))
		}
		if _, at := t.backend(m.Backend); at == 0 {
			return refuse("rows", "set %d of %s is to have backend %d, which does not exist", m.Set, t.serviceOf(m.Set), m.Backend)
		}
	}
	for _, e := range put.Endpoints {
		if len(e.Pod) > podMax {
			return refuse("rows", "endpoint %s: the pod's name is longer than %d bytes", e.Addr, podMax)
		}
	}
	return nil
}
