// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/programmer/plan"
)

// zoned is a Service of which all backends are hinted to one zone, 100 of them.
func zoned() *model.Tables {
	t := crowd(100, 2)
	t.Sets[1] = flagged(t.Sets[1], model.ZoneHints)
	all := rows(here, part(11, 1, 1, model.ScopeZone, "here"), view(11, 1, model.ScopeZone, "here"))
	for id := range t.Backends {
		m := model.Member{Set: 11, Backend: id}
		all.Members[m] = m
	}
	t.Apply(&model.Change{Put: all.Rows()}, model.Digest{})
	return t
}

// edited is rows with something done to them.
func edited(rows *model.Tables, edit func(*model.Tables)) *model.Tables {
	rows = rows.Clone()
	edit(rows)
	return rows
}

// TestWhatAChangeCosts is the budget of map writes of each kind of change.
func TestWhatAChangeCosts(t *testing.T) {
	joins := func(id model.BackendID, sets ...model.SetID) func(*model.Tables) {
		return func(t *model.Tables) {
			t.Backends[id] = backend(id, 1, int(id))
			for _, s := range sets {
				m := model.Member{Set: s, Backend: id}
				t.Members[m] = m
			}
		}
	}
	leaves := func(id model.BackendID, sets ...model.SetID) func(*model.Tables) {
		return func(t *model.Tables) {
			delete(t.Backends, id)
			for _, s := range sets {
				delete(t.Members, model.Member{Set: s, Backend: id})
			}
		}
	}
	nothing := func(*model.Tables) {}
	for _, test := range []struct {
		name string
		of   *model.Tables
		edit func(*model.Tables)
		want int
	}{
		{"nothing", zoned(), nothing, 0},
		{"an endpoint comes", crowd(100, 2), joins(900, 1), 3},
		{"an endpoint goes", crowd(100, 2), leaves(7, 1), 4},
		{"an endpoint with a hint comes", zoned(), joins(900, 1, 11), 5},
		{"an endpoint with a hint goes", zoned(), leaves(7, 1, 11), 7},
		{"an endpoint's hint goes", zoned(), func(t *model.Tables) { delete(t.Members, model.Member{Set: 11, Backend: 7}) }, 3},
		{"an endpoint terminates and is still served", crowd(100, 2), func(t *model.Tables) {
			b := t.Backends[7]
			b.State = model.BackendTerminating
			t.Backends[7] = b
			delete(t.Members, model.Member{Set: 1, Backend: 7})
		}, 4},
		{"a NodePort comes", crowd(100, 2), func(t *model.Tables) {
			f := policy(frontend(9, 1), 0)
			t.Frontends[f.FrontendKey] = f
		}, 1},
		{"affinity changes", zoned(), func(t *model.Tables) {
			for id, s := range t.Sets {
				s.Affinity = 600
				t.Sets[id] = s
			}
		}, 2},
		{"hints go", zoned(), func(t *model.Tables) {
			t.Sets[1] = flagged(t.Sets[1], 0)
			delete(t.Sets, 11)
			clear(t.Views)
			for m := range t.Members {
				if m.Set == 11 {
					delete(t.Members, m)
				}
			}
		}, 103},
		{"a source range comes with its flag", crowd(100, 1), func(t *model.Tables) {
			r, f := sources(1, "192.0.2.0/24"), policy(frontend(0, 1), model.SourceRanges)
			t.SourceRanges[r], t.Frontends[f.FrontendKey] = r, f
		}, 2},
		{"a Service with one endpoint comes", rows(), func(t *model.Tables) { *t = *crowd(1, 1) }, 4},
		{"a Service with one endpoint goes", crowd(1, 1), func(t *model.Tables) { *t = *rows() }, 4},
	} {
		_, s := filled(t, test.of)
		p := mustApply(t, s, plan.LayerChange{Kind: model.LayerCluster, Change: model.Diff(test.of, edited(test.of, test.edit))})
		t.Logf("%-50s %4d", test.name, p.Writes())
		if p.Writes() > test.want {
			t.Errorf("%s: %d writes, want at most %d", test.name, p.Writes(), test.want)
		}
	}
}
