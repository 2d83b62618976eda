// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

func TestThePortBetweenNodesIsNoNodePort(t *testing.T) {
	s := settings{node: "a", maps: mapsMemory, tunnel: tunnel.Device{Port: 30475}, tunnelVNI: 1}
	if err := s.check(); err == nil || !strings.Contains(err.Error(), "--tunnel-port 30475: want one that no NodePort can have") {
		t.Errorf("got %v", err)
	}
}
