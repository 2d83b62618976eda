// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// putHits counts hits of a rule as programs on several processors do.
func putHits(t *testing.T, d *Dataplane, rule model.RuleID, hits uint64) {
	t.Helper()
	perCPU := make([]uint64, ebpf.MustPossibleCPU())
	for i := range hits {
		perCPU[int(i)%len(perCPU)]++
	}
	check(t, d.maps[ruleHitsMap].Put(uint64(rule), perCPU))
}

func TestHitsOfRulesAreCountedUntilTheyAreForgotten(t *testing.T) {
	testkit.NeedKernel(t)
	d := load(t, "")
	want := map[model.RuleID]uint64{}
	for rule := range model.RuleID(50) {
		want[rule+1] = uint64(7 * rule)
		putHits(t, d, rule+1, want[rule+1])
	}
	got, err := d.RuleHits()
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
	check(t, d.ForgetHits([]model.RuleID{1, 2, 51}))
	delete(want, 1)
	delete(want, 2)
	got, err = d.RuleHits()
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hits after two are forgotten (-want +got):\n%s", diff)
	}
}
