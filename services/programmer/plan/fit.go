// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// aside is what the node's layer should hold of policy and the maps don't: rule sets that don't fit are left out as a
// whole. Their endpoints lead to a rule set that has no verdicts, so nothing passes them.
type aside struct {
	wanted *model.Tables // the layer's rows of policy; nil if the maps hold them
	offset model.Digest  // what their digest is more than that of the rows in the maps
	out    []LeftOut
	short  string
}

// LeftOut is a rule set that didn't fit.
type LeftOut struct {
	RuleSet model.RuleSet
	Pods    []string // that are closed in its direction
}

// LeftOut returns what didn't fit, and which maps it takes more of.
func (s *State) LeftOut() (out []LeftOut, short string) { return s.aside.out, s.aside.short }

// Wanted returns the rows that a layer should hold, to be read only: with those of policy that didn't fit.
func (s *State) Wanted(kind model.LayerKind) *model.Tables {
	if kind != model.LayerNode || s.aside.wanted == nil {
		return s.tables[kind]
	}
	all := *s.tables[kind]
	w := s.aside.wanted
	all.Endpoints, all.RuleSets, all.Rules, all.PortVerdicts = w.Endpoints, w.RuleSets, w.Rules, w.PortVerdicts
	all.Verdicts, all.Blocks, all.Peers = w.Verdicts, w.Blocks, w.Peers
	return &all
}

// Closed returns how many endpoints are judged by a rule set that has no verdicts: nothing passes them.
func (s *State) Closed() (n int) {
	for id, endpoints := range s.uses.judged {
		if s.uses.decided[id] == 0 {
			n += int(endpoints)
		}
	}
	return n
}

// inMaps turns the digests that changes announce into those of the rows in the maps.
func (s *State) inMaps(changes []LayerChange) []LayerChange {
	if s.aside.wanted == nil {
		return changes
	}
	changes = slices.Clone(changes)
	for i, c := range changes {
		if c.Kind == model.LayerNode && c.After != nil {
			changes[i].After = &model.Digest{c.After[0] - s.aside.offset[0], c.After[1] - s.aside.offset[1]}
		}
	}
	return changes
}

// overflows says whether an error is that policy doesn't fit.
func overflows(err error) bool {
	refusal, is := errors.AsType[*Refusal](err)
	return is && refusal.Kind == "capacity" && refusal.Map.OfPolicy() && refusal.Map != abi.Endpoints
}

// judgesOtherwise says whether changes have rows of policy, or endpoints.
func judgesOtherwise(changes []LayerChange) bool {
	return slices.ContainsFunc(changes, func(c LayerChange) bool {
		put, remove := policyRows(c.Change)
		return put.Len()+remove.Len() > 0 || c.TakeOver
	})
}

// policyRows are the parts of a change that are policy's, or endpoints.
func policyRows(c *model.Change) (put model.Rows, remove model.Keys) {
	p, r := &c.Put, &c.Remove
	put = model.Rows{
		Endpoints: p.Endpoints, RuleSets: p.RuleSets, Rules: p.Rules, PortVerdicts: p.PortVerdicts,
		Verdicts: p.Verdicts, Blocks: p.Blocks, Peers: p.Peers,
	}
	remove = model.Keys{
		Endpoints: r.Endpoints, RuleSets: r.RuleSets, Rules: r.Rules, PortVerdicts: r.PortVerdicts,
		Verdicts: r.Verdicts, Blocks: r.Blocks, Peers: r.Peers,
	}
	return put, remove
}

// fitting is a change on its way into maps that have no room for all its rule sets.
type fitting struct {
	*State
	capacities Capacities
	changes    []LayerChange // what is not policy's, and what is of the cluster's layer
	want       *wanting
	takeOver   bool
	phases     []Phase
	undo       []func()
}

// fit makes the plan for changes with as many rule sets as there is room for. Where what is kept fits only once what is
// there has gone, endpoints that turn are closed in between: first they, then the rows change, then they open again.
func (s *State) fit(capacities Capacities, changes []LayerChange) (*Plan, error) {
	f := &fitting{State: s, capacities: capacities}
	digest, err := f.take(changes)
	if err != nil {
		return nil, err
	}
	for _, way := range []func() error{f.atOnce, f.turning, f.closing} {
		if err = way(); err == nil {
			f.conclude(digest)
			return &Plan{Phases: f.phases}, nil
		}
		f.back()
		if !overflows(err) {
			break
		}
	}
	return nil, err
}

// take takes the rows that the node's layer is to hold after changes, and its digest then.
func (f *fitting) take(changes []LayerChange) (model.Digest, error) {
	digest, wanted := f.Digest(model.LayerNode), f.Wanted(model.LayerNode)
	for _, c := range changes {
		if c.Kind != model.LayerNode {
			f.changes = append(f.changes, c)
			continue
		}
		f.takeOver = c.TakeOver
		if err := begin(f.State).checkPolicy(&c.Change.Put); err != nil {
			return digest, err
		}
		wanted = wanted.Clone()
		if digest = wanted.Apply(c.Change, digest); c.After != nil && digest != *c.After {
			return digest, refuse("digest", "after the change layer %s would have digest %s and not %s as announced",
				word(c.Kind), digest, *c.After)
		}
		rest := *c.Change
		rest.Put.Endpoints, rest.Put.RuleSets, rest.Put.Rules, rest.Put.PortVerdicts = nil, nil, nil, nil
		rest.Put.Verdicts, rest.Put.Blocks, rest.Put.Peers = nil, nil, nil
		rest.Remove.Endpoints, rest.Remove.RuleSets, rest.Remove.Rules, rest.Remove.PortVerdicts = nil, nil, nil, nil
		rest.Remove.Verdicts, rest.Remove.Blocks, rest.Remove.Peers = nil, nil, nil
		f.changes = append(f.changes, LayerChange{Kind: c.Kind, Change: &rest, TakeOver: c.TakeOver})
	}
	f.want = newWanting(wanted)
	f.closers = f.want.closers
	return digest, f.want.check()
}

// check refuses rows that lead to nothing, also among those that are left out.
func (w *wanting) check() error {
	for id, pods := range w.pods {
		if _, held := w.RuleSets[id]; !held {
			return refuse("rows", "%d endpoints, such as %s, are to be judged by rule set %016x, which does not exist", len(pods), pods[0], uint64(id))
		}
	}
	for id, all := range w.verdicts {
		if _, held := w.RuleSets[id]; !held {
			return refuse("rows", "there are %d verdicts of rule set %016x, which does not exist", len(all), uint64(id))
		}
		for _, v := range all {
			if v.Ports != 0 && len(w.ports[v.Ports]) == 0 {
				return refuse("rows", "rule set %016x decides on identity %d by ports %016x, which do not exist", uint64(id), v.Identity, uint64(v.Ports))
			}
		}
	}
	return nil
}

// judges says whether a rule set judges endpoints now.
func (f *fitting) judges(id model.RuleSetID) bool { return f.uses.judged[id] > 0 }

// none has no rule set judge any endpoint.
func none(model.RuleSetID) bool { return false }

// atOnce takes the change as any other, with what fits in the end.
func (f *fitting) atOnce() error {
	r := f.State.roomFor(f.capacities, false)
	return f.step(f.want.choose(r, f.judges, nil).rows(r), f.changes)
}

// turning closes endpoints whose rule set changes, unless the new one fits beside what is there.
func (f *fitting) turning() error {
	r := f.State.roomFor(f.capacities, true)
	c := f.want.choose(r, f.judges, f.tables[model.LayerNode])
	return f.through(c, func(id model.RuleSetID) bool { return c.kept[id] && f.judges(id) })
}

// closing closes all endpoints, so that all rows can change without anyone to see it.
func (f *fitting) closing() error {
	return f.through(f.want.nothing(f.tables[model.LayerNode]), none)
}

// through closes the endpoints of rule sets that don't stay open, has the maps hold the rows of a choice, and then what
// fits in the end.
func (f *fitting) through(c *choice, open func(model.RuleSetID) bool) error {
	if f.State.judging {
		if err := f.step(f.closedBut(open), nil); err != nil {
			return err
		}
	}
	if err := f.step(c.rows(room{}), f.changes); err != nil {
		return err
	}
	f.changes = nil
	if err := f.atOnce(); err != nil && !overflows(err) {
		return err
	}
	return nil
}

// closedBut returns the rows of now with all endpoints closed but those of rule sets that stay open.
func (f *fitting) closedBut(open func(model.RuleSetID) bool) *model.Tables {
	before := policyOnly(f.tables[model.LayerNode])
	closed := *before
	closed.Endpoints = make(map[netip.Addr]model.Endpoint, len(before.Endpoints))
	for addr, e := range before.Endpoints {
		for _, id := range []*model.RuleSetID{&e.Ingress, &e.Egress} {
			switch {
			case *id == 0 || open(*id):
			case f.uses.decided[*id] > 0:
				*id = f.want.closed(*id)
			default:
				f.closers[*id] = true // closed already
			}
		}
		closed.Endpoints[addr] = e
	}
	return &closed
}

// step takes the node's rows of policy to others, together with changes of what isn't policy's.
func (f *fitting) step(rows *model.Tables, changes []LayerChange) error {
	node := LayerChange{Kind: model.LayerNode, Change: &model.Change{}, TakeOver: f.takeOver}
	all := make([]LayerChange, 0, len(changes)+1)
	for _, c := range changes {
		if c.Kind == model.LayerNode {
			node = c
		} else {
			all = append(all, c)
		}
	}
	change := *node.Change
	diff := model.Diff(policyOnly(f.tables[model.LayerNode]), rows)
	change.Put.Append(&diff.Put)
	change.Remove.Append(&diff.Remove)
	node.Change = &change
	phases, undo, err := f.apply(f.capacities, append(all, node))
	if err != nil {
		return err
	}
	f.phases = append(f.phases, phases...)
	f.undo = append(f.undo, undo)
	f.stale.all = true // the next step waits until nobody judges by what was before this one
	return nil
}

// back takes the state back to where it was.
func (f *fitting) back() {
	for _, undo := range slices.Backward(f.undo) {
		undo()
	}
	f.phases, f.undo = nil, nil
}

// conclude notes what is left out.
func (f *fitting) conclude(digest model.Digest) {
	in := f.tables[model.LayerNode]
	f.aside = aside{}
	if f.digests[model.LayerNode] == digest {
		return
	}
	now := f.digests[model.LayerNode]
	a := aside{wanted: policyOnly(f.want.Tables), offset: model.Digest{digest[0] - now[0], digest[1] - now[1]}}
	for _, id := range f.want.nothing(nil).leftOut() {
		if _, kept := in.RuleSets[id]; kept {
			continue
		}
		out := LeftOut{RuleSet: f.want.RuleSets[id]}
		for _, addr := range f.want.pods[id] {
			out.Pods = append(out.Pods, f.want.Endpoints[addr].Pod)
		}
		slices.Sort(out.Pods)
		out.Pods = slices.Compact(out.Pods)
		a.out = append(a.out, out)
	}
	a.short = f.short()
	f.aside = a
}

// short says which maps would have to be larger.
func (f *fitting) short() string {
	var texts []string
	r := f.State.roomFor(f.capacities, false)
	for m, n := range f.want.need() {
		if n > r[m] {
			texts = append(texts, fmt.Sprintf("map %s has room for %d entries of %d", abi.Map(m), r[m], n))
		}
	}
	return strings.Join(texts, ", ")
}
