// SPDX-License-Identifier: Apache-2.0

// Package steps turns rows of policy into others where nobody knows what happened in between: a compiler takes over, or
// puts rows right; a node gets a snapshot.
//
// It promises that after each step, and while a node applies one in the order of its transactions (verdicts, then the
// addresses that they are about, then the endpoints that lead to them, then removals), an endpoint judges each address as
// before or as after. Before changing it know why that takes steps: a policy that changes may split identities and merge
// others, so a number must not mean two things to an old and a new rule set.
package steps

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Between returns what turns held into wanted, to be applied one after the other; it changes neither. One step is enough
// where no endpoint judges otherwise than before, as when pods come and go. Otherwise the addresses first get numbers that
// tell apart what was one, or will be one:
//
//	refine   each (identity before, after) has its number, with the verdicts before
//	switch   other rule sets, and the endpoints lead to them; all that isn't policy's
//	coarsen  the numbers that should be
func Between(held, wanted *model.Tables) []*model.Change {
	all := model.Diff(held, wanted)
	if all.Empty() || !judgesOtherwise(held, wanted, all) {
		return []*model.Change{all}
	}
	p := renamings{before: identitiesOf(held), after: identitiesOf(wanted), numbers: map[renaming]model.IdentityID{}}
	p.collect(held, wanted)
	p.assign()
	peers, blocks := p.rows()
	refined := *held
	refined.Peers, refined.Blocks = peers, blocks
	refined.Verdicts = p.verdicts(held.Verdicts, func(k renaming) model.IdentityID { return k.before })
	switched := *wanted
	switched.Peers, switched.Blocks = peers, blocks
	switched.Verdicts = p.verdicts(wanted.Verdicts, func(k renaming) model.IdentityID { return k.after })
	return []*model.Change{model.Diff(held, &refined), model.Diff(&refined, &switched), model.Diff(&switched, wanted)}
}

// judgesOtherwise says that a change changes what endpoints that stay judge by: where they lead, what is said of an
// identity that addresses have before or after, or blocks, of which several may be around one address. If not, each
// address that gets another identity is judged by one write of its own row.
func judgesOtherwise(held, wanted *model.Tables, c *model.Change) bool {
	turned := func(e model.Endpoint) bool {
		old, was := held.Endpoints[e.Addr]
		return was && (old.Ingress != e.Ingress || old.Egress != e.Egress)
	}
	port := func(v model.PortVerdict) bool { _, was := held.PortVerdicts[v.PortKey]; return was }
	stays := func(set model.RuleSetID) bool {
		_, was := held.RuleSets[set]
		_, is := wanted.RuleSets[set]
		return was && is
	}
	had, has := namedBy(held), namedBy(wanted)
	said := func(v model.Verdict) bool { return stays(v.RuleSet) && had[v.Identity] }
	unsaid := func(k model.VerdictKey) bool { return stays(k.RuleSet) && has[k.Identity] }
	return len(c.Put.Blocks)+len(c.Remove.Blocks) > 0 ||
		slices.ContainsFunc(c.Put.Endpoints, turned) || slices.ContainsFunc(c.Put.PortVerdicts, port) ||
		slices.ContainsFunc(c.Put.Verdicts, said) || slices.ContainsFunc(c.Remove.Verdicts, unsaid)
}

// namedBy returns the identities that addresses have.
func namedBy(t *model.Tables) map[model.IdentityID]bool {
	ids := map[model.IdentityID]bool{0: true}
	for _, id := range t.Peers {
		ids[id] = true
	}
	for _, row := range t.Blocks {
		ids[row.Identity] = true
	}
	return ids
}

// renaming is the identities that an address has before and after.
type renaming struct{ before, after model.IdentityID }

type renamings struct {
	before, after identities
	peers         map[netip.Addr]renaming
	blocks        map[netip.Prefix]renaming
	numbers       map[renaming]model.IdentityID
}

// collect finds the renamings of all addresses that have a row, and of all regions between blocks.
func (p *renamings) collect(held, wanted *model.Tables) {
	p.peers, p.blocks = map[netip.Addr]renaming{}, map[netip.Prefix]renaming{}
	for _, t := range []*model.Tables{held, wanted} {
		for addr := range t.Peers.All() {
			p.peers[addr] = renaming{p.before.of(addr), p.after.of(addr)}
		}
		for prefix := range t.Blocks {
			p.blocks[prefix] = renaming{p.before.block(prefix), p.after.block(prefix)}
		}
	}
}

// assign gives each renaming its number: the identity after if nothing was called so, else that before if nothing will be
// called so, else one that is neither. An identity that stays keeps its number, if no other has got it.
func (p *renamings) assign() {
	for _, k := range p.peers {
		p.numbers[k] = 0
	}
	for _, k := range p.blocks {
		p.numbers[k] = 0
	}
	order := slices.SortedFunc(maps.Keys(p.numbers), func(a, b renaming) int {
		return cmp.Or(cmp.Compare(a.before, b.before), cmp.Compare(a.after, b.after))
	})
	taken, fresh := map[model.IdentityID]bool{0: true}, max(p.before.highest, p.after.highest)
	for _, k := range order {
		switch {
		case k == renaming{}:
			continue
		case k.before == k.after && !taken[k.before]:
			p.numbers[k] = k.before
		case !p.before.used[k.after] && !taken[k.after]:
			p.numbers[k] = k.after
		case !p.after.used[k.before] && !taken[k.before]:
			p.numbers[k] = k.before
		default:
			for fresh++; taken[fresh] || p.before.used[fresh] || p.after.used[fresh]; {
				fresh++ // the highest of all was the last there is
			}
			p.numbers[k] = fresh
		}
		taken[p.numbers[k]] = true
	}
}

func (p *renamings) rows() (model.Peers, map[netip.Prefix]model.Block) {
	peers, blocks := make(model.Peers, len(p.peers)), make(map[netip.Prefix]model.Block, len(p.blocks))
	for addr, k := range p.peers {
		peers.Put(model.Peer{Addr: addr, Identity: p.numbers[k]})
	}
	for prefix, k := range p.blocks {
		blocks[prefix] = model.Block{Prefix: prefix, Identity: p.numbers[k]}
	}
	return peers, blocks
}

// verdicts adds to verdicts what they say about the renamings' numbers. What a rule set has no row for is as identity 0,
// by whatever number.
func (p *renamings) verdicts(rows map[model.VerdictKey]model.Verdict, side func(renaming) model.IdentityID) map[model.VerdictKey]model.Verdict {
	numbers := map[model.IdentityID][]model.IdentityID{}
	for k, number := range p.numbers {
		if number != side(k) {
			numbers[side(k)] = append(numbers[side(k)], number)
		}
	}
	all := maps.Clone(rows)
	for key, row := range rows {
		for _, number := range numbers[key.Identity] {
			row.Identity = number
			all[row.VerdictKey] = row
		}
	}
	return all
}

// identities are what leads from addresses to identities.
type identities struct {
	peers   model.Peers
	blocks  map[netip.Prefix]model.Block
	lengths []int // of blocks, longest first
	used    map[model.IdentityID]bool
	highest model.IdentityID
}

func identitiesOf(t *model.Tables) identities {
	ids := identities{peers: t.Peers, blocks: t.Blocks, used: map[model.IdentityID]bool{}}
	use := func(id model.IdentityID) {
		ids.used[id] = true
		ids.highest = max(ids.highest, id)
	}
	for _, id := range t.Peers {
		use(id)
	}
	for key := range t.Verdicts {
		use(key.Identity)
	}
	lengths := map[int]bool{}
	for prefix, row := range t.Blocks {
		use(row.Identity)
		lengths[prefix.Bits()] = true
	}
	ids.lengths = slices.SortedFunc(maps.Keys(lengths), func(a, b int) int { return b - a })
	return ids
}

func (ids *identities) of(addr netip.Addr) model.IdentityID {
	if row, held := ids.peers.Get(addr); held {
		return row.Identity
	}
	return ids.block(netip.PrefixFrom(addr, addr.BitLen()))
}

// block returns the identity of the longest block that a prefix is in.
func (ids *identities) block(prefix netip.Prefix) model.IdentityID {
	for _, bits := range ids.lengths {
		if bits > prefix.Bits() {
			continue
		}
		if row, held := ids.blocks[netip.PrefixFrom(prefix.Addr(), bits).Masked()]; held {
			return row.Identity
		}
	}
	return 0
}
