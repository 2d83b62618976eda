// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
)

func TestBusOfTheOnlyLab(t *testing.T) {
	t.Parallel()
	one, two := lab.State{Name: "one", Bus: "nats://127.0.0.1:1"}, lab.State{Name: "two", Bus: "nats://127.0.0.1:2"}
	if got, err := onlyLab([]lab.State{one}); got.Bus != one.Bus || err != nil {
		t.Errorf("one lab: got %q, %v", got.Bus, err)
	}
	if got, err := onlyLab([]lab.State{{Name: "elsewhere"}, one}); got.Bus != one.Bus || err != nil {
		t.Errorf("one lab, and one whose bus isn't reached from here: got %q, %v", got.Bus, err)
	}
	if got := labWithBus(two.Bus, []lab.State{one, two}); got.Name != "two" {
		t.Errorf("the lab with bus %s: got %q", two.Bus, got.Name)
	}
	for _, c := range []struct {
		want    string
		running []lab.State
	}{
		{"start a lab with 'deltaplane lab up'", nil},
		{"--bus or set DELTAPLANE_BUS: nats://127.0.0.1:1 for lab one, nats://127.0.0.1:2 for lab two", []lab.State{one, two}},
	} {
		if got, err := onlyLab(c.running); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d labs: got %q and %v, want an error with %q", len(c.running), got.Name, err, c.want)
		}
	}
}
