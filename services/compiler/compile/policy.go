// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/steps"
)

// comparePolicies returns what turns the rows of policy that nodes have into those that they should have.
func comparePolicies(held, wanted map[string]*model.Tables) []Stage {
	stages := make([]Stage, 3)
	for i := range stages {
		stages[i] = Stage{}
	}
	compare := func(node string, had, should *model.Tables) {
		for i, change := range steps.Between(policyOf(had), policyOf(should)) {
			if !change.Empty() {
				stages[i][model.NodeLayer(node)] = change
			}
		}
	}
	for node, should := range wanted {
		had := held[node]
		if had == nil {
			had = &model.Tables{}
		}
		compare(node, had, should)
	}
	for node, had := range held {
		if wanted[node] == nil {
			compare(node, had, &model.Tables{})
		}
	}
	return stages
}

// policyOf returns the tables that policies own, without the others. It shares them.
func policyOf(t *model.Tables) *model.Tables {
	return &model.Tables{
		Endpoints: t.Endpoints, RuleSets: t.RuleSets, Rules: t.Rules, PortVerdicts: t.PortVerdicts, Verdicts: t.Verdicts,
		Blocks: t.Blocks, Peers: t.Peers,
	}
}
