// SPDX-License-Identifier: Apache-2.0

package plantest

import (
	"maps"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Outcome is where a packet to a frontend goes: a backend's address, or why it goes nowhere.
type Outcome string

// The outcomes that are no address.
const (
	NoFrontend Outcome = "no frontend"
	Refused    Outcome = "refused"
	WrongPort  Outcome = "refused: the port isn't served"
	NoLocal    Outcome = "dropped: no local backend"
	OutOfRange Outcome = "dropped: not in the source ranges"
)

// Client is who dials.
type Client struct {
	Inside bool // a pod or a process of the node
	Addr   netip.Addr
}

// Clients are those that are followed: from inside and outside, in the source ranges that tests use and not.
var Clients = []Client{
	{true, netip.MustParseAddr("10.1.9.9")},
	{true, netip.MustParseAddr("192.0.2.9")},
	{false, netip.MustParseAddr("192.0.2.1")},
	{false, netip.MustParseAddr("198.51.100.1")},
}

// Dialled is a frontend and who dials it.
type Dialled struct {
	model.FrontendKey
	Client
}

// Outcomes returns where packets to each frontend of rows may go. It reads rows as bpf/include/service.h reads the
// maps, slowly and obviously.
func Outcomes(layers ...*model.Tables) map[Dialled]map[Outcome]bool {
	rows := merged(layers)
	all := map[Dialled]map[Outcome]bool{}
	for key, f := range rows.Frontends {
		for _, c := range Clients {
			all[Dialled{key, c}] = decide(rows, f, c)
		}
	}
	return all
}

func merged(layers []*model.Tables) *model.Tables {
	all := model.NewTables()
	for _, rows := range layers {
		all.Apply(&model.Change{Put: rows.Rows()}, model.Digest{})
	}
	return all
}

func decide(rows *model.Tables, f model.Frontend, c Client) map[Outcome]bool {
	root := rows.Sets[f.Set]
	switch {
	case f.Kind == model.FrontendRefused:
		return map[Outcome]bool{WrongPort: true}
	case f.Flags&model.SourceRanges != 0 && !allowed(rows, f.Set, c.Addr):
		return map[Outcome]bool{OutOfRange: true}
	case len(backendsOf(rows, root.ID)) == 0:
		return map[Outcome]bool{Refused: true}
	case local(f.Kind, f.Flags, c):
		part := viewed(rows, model.ViewKey{Set: root.ID, Scope: model.ScopeLocal})
		if len(part) == 0 {
			return map[Outcome]bool{NoLocal: true}
		}
		return part
	case root.Flags&model.Fallback != 0:
		return backendsOf(rows, root.ID)
	}
	if root.Flags&model.NodeHints != 0 {
		if part := viewed(rows, model.ViewKey{Set: root.ID, Scope: model.ScopeNode}); len(part) > 0 {
			return part
		}
	}
	if place := model.PlaceOf(rows.Selves[model.SelfKey{}].Zone); root.Flags&model.ZoneHints != 0 && place != 0 {
		if part := viewed(rows, model.ViewKey{Set: root.ID, Scope: model.ScopeZone, Place: place}); len(part) > 0 {
			return part
		}
	}
	return backendsOf(rows, root.ID)
}

func local(kind model.FrontendKind, flags model.FrontendFlags, c Client) bool {
	if c.Inside || kind == model.FrontendClusterIP {
		return flags&model.InternalLocal != 0
	}
	return flags&model.ExternalLocal != 0
}

func allowed(rows *model.Tables, set model.SetID, addr netip.Addr) bool {
	for _, r := range rows.SourceRanges {
		if r.Set == set && r.Prefix.Contains(addr) {
			return true
		}
	}
	return false
}

func viewed(rows *model.Tables, key model.ViewKey) map[Outcome]bool {
	return backendsOf(rows, rows.Views[key].Target)
}

func backendsOf(rows *model.Tables, set model.SetID) map[Outcome]bool {
	found := map[Outcome]bool{}
	for m := range rows.Members {
		if m.Set == set {
			found[to(rows.Backends[m.Backend].Addr, rows.Backends[m.Backend].Port)] = true
		}
	}
	return found
}

func to(addr netip.Addr, port uint16) Outcome {
	return Outcome(netip.AddrPortFrom(addr, port).String())
}

// leaving returns the rows after a change, but with the frontends as they were before, where their sets mean the
// same before and after.
func leaving(before, after []*model.Tables) *model.Tables {
	old, hybrid := merged(before), merged(after)
	hybrid.Frontends = map[model.FrontendKey]model.Frontend{}
	for key, f := range old.Frontends {
		was, now := old.Sets[f.Set], hybrid.Sets[f.Set]
		if was.ID != 0 && was.SetKey == now.SetKey && was.Root == now.Root {
			hybrid.Frontends[key] = f
		}
	}
	return hybrid
}

// unviewed returns the rows before a change without the views that are gone or empty after it: who looks for one
// meanwhile gets what there was without.
func unviewed(before, after []*model.Tables) *model.Tables {
	hybrid, now := merged(before), merged(after)
	maps.DeleteFunc(hybrid.Views, func(key model.ViewKey, _ model.View) bool {
		return len(viewed(now, key)) == 0 && key.Scope != model.ScopeLocal
	})
	return hybrid
}

// ranged returns rows with the source ranges of before and after a change, for sets that mean the same in both: a new
// range is there before the rest of the change, and an old one until it is over.
func ranged(rows *model.Tables, before, after []*model.Tables) *model.Tables {
	old, now, hybrid := merged(before), merged(after), rows.Clone()
	for _, from := range []*model.Tables{old, now} {
		for r := range from.SourceRanges {
			if was, is := old.Sets[r.Set], now.Sets[r.Set]; was.SetKey == is.SetKey || hybrid.Sets[r.Set] == from.Sets[r.Set] {
				hybrid.SourceRanges[r] = r
			}
		}
	}
	return hybrid
}
