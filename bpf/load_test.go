// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestProgramsLoadWithoutPins(t *testing.T) {
	testkit.NeedKernel(t)
	d, err := Load(Options{})
	if err != nil {
		t.Fatalf("Load: %+v", err)
	}
	d.Close()
}
