// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// pending is what waits to be compiled: units, and what policies are about, each with the changes that touched it.
type pending struct {
	units       map[compile.Unit]*causes
	pods        map[state.Name]*causes
	nodes       map[string]*causes // whose labels or addresses changed
	namespaces  map[string]*causes
	policies    map[model.PolicyName]*causes
	first, last time.Time

	// Gathered once for all layers, since each of 5,000 may ask: what of policies isn't told apart by rows, and all pods.
	ofAll, ofPods *causes
}

// causes are a bounded list of changes, in the order they came.
type causes struct {
	list    []model.Cause
	leftOut uint32
}

func (p *pending) add(touch state.Touch, now time.Time) {
	if p.empty() {
		p.first = now
	}
	p.last = now
	p.ofAll, p.ofPods = nil, nil
	addCause(&p.units, compile.Touched(&touch), touch.Cause)
	addCause(&p.pods, touch.Policy.Pods, touch.Cause)
	addCause(&p.nodes, touch.Policy.Nodes, touch.Cause)
	addCause(&p.namespaces, touch.Policy.Namespaces, touch.Cause)
	addCause(&p.policies, touch.Policy.Policies, touch.Cause)
}

func addCause[K comparable](to *map[K]*causes, keys []K, cause model.Cause) {
	for _, key := range keys {
		if *to == nil {
			*to = map[K]*causes{}
		}
		c := (*to)[key]
		if c == nil {
			c = &causes{}
			(*to)[key] = c
		}
		c.add(cause)
	}
}

func (p *pending) empty() bool {
	return len(p.units)+len(p.pods)+len(p.nodes)+len(p.namespaces)+len(p.policies) == 0
}

// work returns what is to be compiled.
func (p *pending) work() compile.Work {
	return compile.Work{
		Units: slices.Collect(maps.Keys(p.units)),
		Policy: state.Policed{
			Pods: slices.SortedFunc(maps.Keys(p.pods), state.Name.Compare), Nodes: slices.Sorted(maps.Keys(p.nodes)),
			Namespaces: slices.Sorted(maps.Keys(p.namespaces)),
			Policies:   slices.SortedFunc(maps.Keys(p.policies), comparePolicyNames),
		},
	}
}

func comparePolicyNames(a, b model.PolicyName) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// addresses returns the pods that wait, by the addresses that they had and have.
func (p *pending) addresses(before, after *state.Snapshot) map[netip.Addr][]state.Name {
	all := map[netip.Addr][]state.Name{}
	for name := range p.pods {
		for _, snap := range []*state.Snapshot{before, after} {
			if pod, found := snap.Pod(name); found {
				for _, addr := range pod.Attached() {
					all[addr] = append(all[addr], name)
				}
			}
		}
	}
	return all
}

// ofUnits returns the causes of units.
func (p *pending) ofUnits(units []compile.Unit) (why []*causes) {
	for _, u := range units {
		if c := p.units[u]; c != nil {
			why = append(why, c)
		}
	}
	return why
}

// ofPolicy returns the causes of a change of policy rows: the pods whose addresses it names, and whatever else of
// policies waits. Which of several policies or namespaces changed a row isn't told apart.
func (p *pending) ofPolicy(change *model.Change, pods map[netip.Addr][]state.Name) (why []*causes) {
	if !policed(change) {
		return nil
	}
	found := map[state.Name]bool{}
	eachAddress(change, func(addr netip.Addr) {
		for _, name := range pods[addr] {
			found[name] = true
		}
	})
	for name := range found {
		why = append(why, p.pods[name])
	}
	if p.ofAll == nil {
		others := slices.AppendSeq(slices.Collect(maps.Values(p.nodes)), maps.Values(p.namespaces))
		p.ofAll = new(gather(slices.AppendSeq(others, maps.Values(p.policies))))
	}
	if why = append(why, p.ofAll); len(found) > 0 || len(p.ofAll.list) > 0 {
		return why
	}
	if p.ofPods == nil {
		p.ofPods = new(gather(slices.Collect(maps.Values(p.pods)))) // such as one whose named port gives others another rule set
	}
	return append(why, p.ofPods)
}

// policed says that a change has rows that policies own.
func policed(c *model.Change) bool {
	put, remove := &c.Put, &c.Remove
	return len(put.Endpoints)+len(put.RuleSets)+len(put.Rules)+len(put.PortVerdicts)+len(put.Verdicts)+len(put.Blocks)+len(put.Peers)+
		len(remove.Endpoints)+len(remove.RuleSets)+len(remove.Rules)+len(remove.PortVerdicts)+len(remove.Verdicts)+
		len(remove.Blocks)+len(remove.Peers) > 0
}

// eachAddress calls visit with the pods' addresses in a change.
func eachAddress(c *model.Change, visit func(netip.Addr)) {
	for _, row := range c.Put.Endpoints {
		visit(row.Addr)
	}
	for _, row := range c.Put.Peers {
		visit(row.Addr)
	}
	for _, addr := range slices.Concat(c.Remove.Endpoints, c.Remove.Peers) {
		visit(addr)
	}
}

// add keeps of one object only its newest change, and when the first of them came about.
func (c *causes) add(cause model.Cause) {
	for i, old := range c.list {
		if old.Kind == cause.Kind && old.Namespace == cause.Namespace && old.Name == cause.Name {
			if !old.Trigger.IsZero() && old.Trigger.Before(cause.Trigger) {
				cause.Trigger = old.Trigger
			}
			c.list[i] = cause
			return
		}
	}
	if len(c.list) >= model.MaxCauses {
		c.leftOut++
		return
	}
	c.list = append(c.list, cause)
}

// addAll adds the causes of another list, if there is one.
func (c *causes) addAll(more *causes) bool {
	if more == nil {
		return false
	}
	c.leftOut += more.leftOut
	for _, cause := range more.list {
		c.add(cause)
	}
	return true
}

// gather merges causes, oldest first.
func gather(why []*causes) causes {
	seen := map[model.Cause]bool{}
	var all causes
	for _, c := range why {
		all.leftOut += c.leftOut
		for _, cause := range c.list {
			if !seen[cause] {
				seen[cause] = true
				all.list = append(all.list, cause)
			}
		}
	}
	slices.SortFunc(all.list, func(a, b model.Cause) int {
		return cmp.Or(a.Trigger.Compare(b.Trigger), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	if extra := len(all.list) - model.MaxCauses; extra > 0 {
		all.list = all.list[:model.MaxCauses]
		all.leftOut += uint32(extra)
	}
	return all
}

// forgetTriggers is for the first compilation there is: its objects may be years old, and how long it took from
// their last changes until now tells nothing.
func (c *causes) forgetTriggers() {
	for i := range c.list {
		c.list[i].Trigger = time.Time{}
	}
}

// oldest returns when the first of the causes came about, zero if unknown.
func (c *causes) oldest() time.Time {
	for _, cause := range c.list {
		if !cause.Trigger.IsZero() && cause.Trigger.Unix() > 0 {
			return cause.Trigger
		}
	}
	return time.Time{}
}

func causesToProto(list []model.Cause) []*schemas.Cause {
	messages := make([]*schemas.Cause, len(list))
	for i, c := range list {
		messages[i] = wire.CauseToProto(c)
	}
	return messages
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
