// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/deltaplane/deltaplane/internal/lab"
)

// labBus returns the URL of the bus of the lab that runs on this machine: of the one with the default name if several
// do.
func labBus() (string, error) {
	if state, err := lab.ReadState(lab.DefaultName); err == nil {
		return state.Bus, nil
	}
	return onlyBus(lab.Running())
}

func onlyBus(running []lab.State) (string, error) {
	switch len(running) {
	case 0:
		return "", errors.New("no bus is known: give --bus nats://HOST:PORT, set DELTAPLANE_BUS, or start a lab with 'deltaplane lab up'")
	case 1:
		return running[0].Bus, nil
	}
	var choices []string
	for _, state := range running {
		choices = append(choices, fmt.Sprintf("%s for lab %s", state.Bus, state.Name))
	}
	return "", fmt.Errorf("which bus? several labs run here: give --bus or set DELTAPLANE_BUS: %s", strings.Join(choices, ", "))
}
