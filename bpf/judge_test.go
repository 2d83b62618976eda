// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestEpochsNeverComeTwice(t *testing.T) {
	testkit.NeedKernel(t)
	dir := filepath.Join(testkit.BPFFS(t), "node")
	d := load(t, dir)
	for _, step := range []struct {
		name    string
		policed bool
		want    uint32
	}{
		{"no policy from the start", false, 0},
		{"the first policy", true, 1},
		{"a change", true, 2},
		{"the last policy goes", false, 0},
		{"which is said again", false, 0},
		{"the first policy after that", true, 3},
	} {
		check(t, d.Judge(step.policed))
		if got, err := d.Epoch(); got != step.want || err != nil {
			t.Errorf("%s: epoch %d, %v; want %d", step.name, got, err, step.want)
		}
	}
	check(t, d.Judge(false))
	d.Close()
	d = load(t, dir)
	check(t, d.Judge(true))
	if got, err := d.Epoch(); got != 4 || err != nil {
		t.Errorf("after a restart: epoch %d, %v; want 4", got, err)
	}
	if got := nextEpoch(math.MaxUint32); got != 1 {
		t.Errorf("after the last comes %d, want 1: 0 is no policy", got)
	}
}
