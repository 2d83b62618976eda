// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// policyCauses adds what waits for the objects that rows of policy name, or those objects: pods that come and go, and
// policies where endpoints turn to other rule sets. Where there are neither, as when only others' labels changed, it is
// the node that is told.
func (c *Core) policyCauses(to *causes, l model.Layer, change *model.Change) {
	held, turned, found := c.rows(l), false, len(to.list)
	for _, e := range change.Put.Endpoints {
		if old := held.Endpoints[e.Addr]; old.Pod == e.Pod && old.Incarnation == e.Incarnation {
			turned = true
			continue
		}
		c.podCause(to, e.Pod)
	}
	for _, addr := range change.Remove.Endpoints {
		c.podCause(to, held.Endpoints[addr].Pod)
	}
	if turned || len(to.list) == found {
		for _, set := range change.Put.RuleSets {
			c.policyCause(to, set.Policies)
		}
		for _, id := range change.Remove.RuleSets {
			c.policyCause(to, held.RuleSets[id].Policies)
		}
	}
	if len(to.list) == 0 {
		to.add(model.Cause{Kind: state.KindNode, Name: l.Name})
	}
}

// podCause adds a pod that is written "namespace/name".
func (c *Core) podCause(to *causes, pod string) {
	namespace, name, _ := strings.Cut(pod, "/")
	named := state.Name{Namespace: namespace, Name: name}
	if to.addAll(c.pending.pods[named]) {
		return
	}
	_, exists := c.compiled.Pod(named)
	to.add(model.Cause{Kind: state.KindPod, Namespace: namespace, Name: name, Deleted: !exists})
}

// policyCause adds the policies of a rule set, as model.RuleSet writes them, if they are or were some.
func (c *Core) policyCause(to *causes, policies string) {
	for text := range strings.SplitSeq(policies, ", ") {
		kind, name, _ := strings.Cut(text, " ")
		cause := model.Cause{Kind: kind, Name: name}
		names := []model.PolicyName{{Kind: model.AdminPolicy, Name: name}, {Kind: model.BaselinePolicy, Name: name}}
		switch kind {
		case state.KindNetworkPolicy:
			cause.Namespace, cause.Name, _ = strings.Cut(name, "/")
			names = []model.PolicyName{{Kind: model.NetworkPolicy, Namespace: cause.Namespace, Name: cause.Name}}
		case state.KindClusterNetworkPolicy:
		default:
			continue // how many more there are
		}
		cause.Deleted = true
		waits := false
		for _, name := range names {
			waits = to.addAll(c.pending.policies[name]) || waits
			if _, exists := c.compiled.Policy(name); exists {
				cause.Deleted = false
			}
		}
		if !waits {
			to.add(cause)
		}
	}
}
