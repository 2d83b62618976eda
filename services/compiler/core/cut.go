// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// What a row takes in a message, in bytes, at most; names of sets and pods are counted with their longest.
const (
	sizeSet      = 160
	sizeFrontend = 40
	sizeBackend  = 42
	sizeMember   = 16
	sizeEndpoint = 345
	sizeKey      = 30
)

// cut makes several changes of one that is too large for a batch, to be applied in order as revisions of their
// own. Each of them leaves tables that are whole: first come additions, set by set, a frontend after all of its
// set's backends; then removals, a frontend before its set. So a client finds at each revision at least the
// backends that stay. A change that fits, which is nearly every one, is returned as it is.
func cut(change *model.Change, maxBytes int) []*model.Change {
	if size(change) <= maxBytes {
		return []*model.Change{change}
	}
	c := cutter{most: maxBytes}
	c.additions(&change.Put)
	c.removals(&change.Remove)
	return c.pieces
}

func size(c *model.Change) int {
	return len(c.Put.Sets)*sizeSet + len(c.Put.Frontends)*sizeFrontend + len(c.Put.Backends)*sizeBackend +
		len(c.Put.Members)*sizeMember + len(c.Put.Endpoints)*sizeEndpoint + c.Remove.Len()*sizeKey
}

type cutter struct {
	most, used int
	pieces     []*model.Change
}

// piece returns the change that the next row goes to.
func (c *cutter) piece(size int) *model.Change {
	if len(c.pieces) == 0 || c.used+size > c.most {
		c.pieces = append(c.pieces, &model.Change{})
		c.used = 0
	}
	c.used += size
	return c.pieces[len(c.pieces)-1]
}

// additions places rows set by set: the set, its backends, its members, its frontends. A set may span pieces.
func (c *cutter) additions(r *model.Rows) {
	sets, backends := map[model.SetID]model.BackendSet{}, map[model.SetID][]model.Backend{}
	members, frontends := map[model.SetID][]model.Member{}, map[model.SetID][]model.Frontend{}
	var order []model.SetID
	for _, row := range r.Sets {
		sets[row.ID] = row
		order = append(order, row.ID)
	}
	for _, row := range r.Backends {
		backends[row.Set] = append(backends[row.Set], row)
		order = append(order, row.Set)
	}
	for _, row := range r.Members {
		members[row.Set] = append(members[row.Set], row)
		order = append(order, row.Set)
	}
	for _, row := range r.Frontends {
		frontends[row.Set] = append(frontends[row.Set], row)
		order = append(order, row.Set)
	}
	slices.Sort(order)
	for _, id := range slices.Compact(order) {
		if row, put := sets[id]; put {
			p := c.piece(sizeSet)
			p.Put.Sets = append(p.Put.Sets, row)
		}
		place(c, sizeBackend, backends[id], func(p *model.Change) *[]model.Backend { return &p.Put.Backends })
		place(c, sizeMember, members[id], func(p *model.Change) *[]model.Member { return &p.Put.Members })
		place(c, sizeFrontend, frontends[id], func(p *model.Change) *[]model.Frontend { return &p.Put.Frontends })
	}
	place(c, sizeEndpoint, r.Endpoints, func(p *model.Change) *[]model.Endpoint { return &p.Put.Endpoints })
}

// removals places keys in the order in which nothing ever points at nothing.
func (c *cutter) removals(k *model.Keys) {
	members := slices.SortedFunc(slices.Values(k.Members), func(a, b model.Member) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Backend, b.Backend))
	})
	place(c, sizeKey, k.Frontends, func(p *model.Change) *[]model.FrontendKey { return &p.Remove.Frontends })
	place(c, sizeKey, members, func(p *model.Change) *[]model.Member { return &p.Remove.Members })
	place(c, sizeKey, k.Sets, func(p *model.Change) *[]model.SetID { return &p.Remove.Sets })
	place(c, sizeKey, k.Backends, func(p *model.Change) *[]model.BackendID { return &p.Remove.Backends })
	for _, addr := range k.Endpoints {
		p := c.piece(sizeKey)
		p.Remove.Endpoints = append(p.Remove.Endpoints, addr)
	}
}

func place[T any](c *cutter, size int, rows []T, list func(*model.Change) *[]T) {
	for _, row := range rows {
		to := list(c.piece(size))
		*to = append(*to, row)
	}
}
