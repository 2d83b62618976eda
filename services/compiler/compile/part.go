// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// part is what one ServicePort comes to in one family and one layer: backends, and the sets that some of them are
// members of. The root set itself is in one part alone, which has its frontends and source ranges too.
type part struct {
	layer     model.Layer
	root      model.SetKey
	place     model.Place // of the backends: the node in a node's layer
	frontends []frontend
	ranges    []netip.Prefix
	backends  []backend
	sets      []set
}

// frontend is a Frontend of a root.
type frontend struct {
	key   model.FrontendKey
	kind  model.FrontendKind
	flags model.FrontendFlags
}

// backend is a Backend of a root in one layer.
type backend struct {
	at     netip.AddrPort
	state  model.BackendState
	node   model.NodeID
	weight uint16 // as in a row: 0 is 1
}

// set is a BackendSet: the root, or a view of it.
type set struct {
	key      model.SetKey
	flags    model.SetFlags
	affinity uint32
	members  []netip.AddrPort
}

func (p *part) backendKey(root model.SetID, at netip.AddrPort) model.BackendKey {
	return model.BackendKey{Set: root, Addr: at.Addr(), Port: at.Port(), Place: p.place}
}

// backendRow returns the row of a backend, with its twin if it is in a node's layer, but the root in the cluster's.
func (p *part) backendRow(ids numbers, root model.SetID, b backend) model.Backend {
	key := p.backendKey(root, b.at)
	row := model.Backend{ID: ids.Backend(key), BackendKey: key, State: b.state, Node: b.node, Weight: b.weight}
	if p.place != 0 && p.root.Scope == model.ScopeAll {
		key.Place = 0
		row.Twin = ids.Backend(key)
	}
	return row
}

func (f frontend) row(root model.SetID) model.Frontend {
	return model.Frontend{FrontendKey: f.key, Set: root, Kind: f.kind, Flags: f.flags}
}

func (s *set) row(id, root model.SetID) model.BackendSet {
	return model.BackendSet{ID: id, SetKey: s.key, Root: root, Flags: s.flags, Affinity: s.affinity}
}

// view returns what leads from the root to a set that isn't it.
func (s *set) view(root model.SetID) (key model.ViewKey, is bool) {
	key = model.ViewKey{Set: root, Scope: s.key.Scope}
	switch s.key.Scope {
	case model.ScopeZone:
		key.Place = s.key.Place
		return key, true
	case model.ScopeNode, model.ScopeLocal:
		return key, true
	}
	return key, false
}

func refusedRow(addr netip.Addr) model.Frontend {
	return model.Frontend{FrontendKey: model.FrontendKey{Addr: addr}, Kind: model.FrontendRefused}
}

// numbers gives ids to what has none, or only tells those there are.
type numbers interface {
	Set(model.SetKey) model.SetID
	Backend(model.BackendKey) model.BackendID
}

// rows returns all rows of a unit by their layers.
func (c *content) rows(unit Unit, ids numbers) map[model.Layer]*model.Rows {
	layers := map[model.Layer]*model.Rows{}
	of := func(l model.Layer) *model.Rows {
		if layers[l] == nil {
			layers[l] = &model.Rows{}
		}
		return layers[l]
	}
	for i := range c.parts {
		c.parts[i].rows(of(c.parts[i].layer), ids)
	}
	own := of(unit.layer())
	for _, addr := range c.refused {
		own.Frontends = append(own.Frontends, refusedRow(addr))
	}
	own.HealthChecks, own.Networks = c.checks, c.networks
	own.Nodes, own.Selves = c.nodes, c.selves
	return layers
}

func (p *part) rows(r *model.Rows, ids numbers) {
	root := ids.Set(p.root)
	numbered := make(map[netip.AddrPort]model.BackendID, len(p.backends))
	for _, b := range p.backends {
		row := p.backendRow(ids, root, b)
		numbered[b.at] = row.ID
		r.Backends = append(r.Backends, row)
	}
	for _, s := range p.sets {
		id := ids.Set(s.key)
		r.Sets = append(r.Sets, s.row(id, root))
		if key, is := s.view(root); is {
			r.Views = append(r.Views, model.View{ViewKey: key, Target: id})
		}
		for _, at := range s.members {
			r.Members = append(r.Members, model.Member{Set: id, Backend: numbered[at]})
		}
	}
	for _, f := range p.frontends {
		r.Frontends = append(r.Frontends, f.row(root))
	}
	for _, prefix := range p.ranges {
		r.SourceRanges = append(r.SourceRanges, model.SourceRange{Set: root, Prefix: prefix})
	}
}

func comparePartKeys(a, b part) int {
	return cmp.Or(cmp.Compare(a.layer.Kind, b.layer.Kind), cmp.Compare(a.layer.Name, b.layer.Name), compareSetKeys(a.root, b.root))
}

func compareSetKeys(a, b model.SetKey) int {
	return cmp.Or(
		cmp.Compare(a.Service.Namespace, b.Service.Namespace), cmp.Compare(a.Service.Name, b.Service.Name),
		cmp.Compare(a.Service.Port, b.Service.Port), cmp.Compare(a.Service.Protocol, b.Service.Protocol),
		cmp.Compare(a.Family, b.Family), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Place, b.Place),
	)
}

func compareFrontends(a, b frontend) int {
	return cmp.Or(cmp.Compare(a.key.Match, b.key.Match), a.key.Addr.Compare(b.key.Addr),
		cmp.Compare(a.key.Port, b.key.Port), cmp.Compare(a.key.Protocol, b.key.Protocol))
}
