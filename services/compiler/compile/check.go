// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// Check compiles one Service and compares it with the rows there are. It finds rows that are missing or wrong,
// not rows that are too many: only a full compilation shows those.
func Check(
	snap *state.Snapshot, alloc *ids.Allocator, settings Settings, rows func(model.Layer) *model.Tables, name state.Name,
) error {
	unit := ServiceUnit(name)
	now := compileUnit(snap, &settings, unit)
	for layer, wanted := range now.rows(unit, known{alloc}) {
		lacking := lacks(rows(layer), wanted)
		if n := lacking.Len(); n > 0 {
			return fmt.Errorf("layer %s lacks %d of %d rows, or has them otherwise: %s", layer, n, wanted.Len(), first(lacking))
		}
	}
	return nil
}

// known tells ids and gives none.
type known struct{ *ids.Allocator }

func (k known) Set(key model.SetKey) model.SetID             { return k.LookupSet(key) }
func (k known) Backend(key model.BackendKey) model.BackendID { return k.LookupBackend(key) }

// lacks returns those of the rows of a unit that tables don't hold just so.
func lacks(t *model.Tables, wanted *model.Rows) *model.Rows {
	return &model.Rows{
		Frontends:    missing(t.Frontends, wanted.Frontends),
		Sets:         missing(t.Sets, wanted.Sets),
		Backends:     missing(t.Backends, wanted.Backends),
		Members:      missing(t.Members, wanted.Members),
		Views:        missing(t.Views, wanted.Views),
		SourceRanges: missing(t.SourceRanges, wanted.SourceRanges),
		Networks:     missing(t.Networks, wanted.Networks),
		HealthChecks: missing(t.HealthChecks, wanted.HealthChecks),
		Nodes:        missing(t.Nodes, wanted.Nodes),
		Selves:       missing(t.Selves, wanted.Selves),
	}
}

// keyed is a row with its key.
type keyed[K comparable] interface {
	comparable
	Key() K
}

func missing[K comparable, R keyed[K]](held map[K]R, wanted []R) (lacking []R) {
	for _, row := range wanted {
		if old, is := held[row.Key()]; !is || old != row {
			lacking = append(lacking, row)
		}
	}
	return lacking
}

// first writes one of some rows for people.
func first(r *model.Rows) string {
	switch {
	case len(r.Frontends) > 0:
		return fmt.Sprintf("frontend %s should be %+v", r.Frontends[0].FrontendKey, r.Frontends[0])
	case len(r.Sets) > 0:
		return fmt.Sprintf("set %s should be %+v", r.Sets[0].Service, r.Sets[0])
	case len(r.Backends) > 0:
		return fmt.Sprintf("backend %+v", r.Backends[0])
	case len(r.Views) > 0:
		return fmt.Sprintf("view %+v", r.Views[0])
	}
	return fmt.Sprintf("%+v", *r)
}
