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
func Check(snap *state.Snapshot, alloc *ids.Allocator, rows *model.Tables, name state.Name) error {
	for _, s := range compileService(snap, name).sets {
		id := alloc.LookupSet(s.key)
		if row := rows.Sets[id]; row.SetKey != s.key {
			return fmt.Errorf("set %s should have id %d, there is %+v", s.key.Service, id, row)
		}
		for _, key := range s.frontends {
			if row, want := rows.Frontends[key], frontendRow(key, id); row != want {
				return fmt.Errorf("frontend %s should be %+v, it is %+v", key, want, row)
			}
		}
		for _, b := range s.backends {
			if err := checkBackend(alloc, rows, id, b); err != nil {
				return fmt.Errorf("set %s: %w", s.key.Service, err)
			}
		}
	}
	return nil
}

func checkBackend(alloc *ids.Allocator, rows *model.Tables, set model.SetID, b backend) error {
	key := backendKey(set, b)
	want := model.Backend{ID: alloc.LookupBackend(key), BackendKey: key, State: b.state}
	if row := rows.Backends[want.ID]; row != want {
		return fmt.Errorf("backend %s should be %+v, it is %+v", b.at, want, row)
	}
	if _, member := rows.Members[model.Member{Set: set, Backend: want.ID}]; member != b.member {
		return fmt.Errorf("backend %s: that it takes new connections is %v, it should be %v", b.at, member, b.member)
	}
	return nil
}
