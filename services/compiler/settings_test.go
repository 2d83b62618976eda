// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/deltaplane/deltaplane/services/compiler/state"
)

func TestHowToForwardIsOneOfThree(t *testing.T) {
	for text, want := range map[string]state.Forwarding{
		"": state.ForwardDefault, "tunnel": state.ForwardTunnel, "dsr": state.ForwardDSR, "snat": state.ForwardSNAT,
	} {
		s := settings{forwarding: text}
		if c, err := s.compile(); err != nil || c.Forwarding != want {
			t.Errorf("%q: %v, %v", text, c.Forwarding, err)
		}
	}
	s := settings{forwarding: "DSR"}
	if _, err := s.compile(); err == nil || err.Error() != `--forwarding: "DSR" is none of tunnel, dsr and snat` {
		t.Errorf("%v", err)
	}
}
