// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/lab"
)

// labBus finds the lab that runs on this machine: the one with the default name if several do.
func labBus() (lab.State, error) {
	if state, err := lab.ReadState(lab.DefaultName); err == nil {
		return state, nil
	}
	return onlyLab(lab.Running())
}

// labWithBus finds the lab whose bus has an URL, if one of this machine has: who names it needn't name its credentials.
func labWithBus(url string, running []lab.State) (found lab.State) {
	for _, state := range running {
		if state.Bus == url {
			found = state
		}
	}
	return found
}

func onlyLab(running []lab.State) (lab.State, error) {
	// One whose servers are machines of its own has no address here.
	running = slices.DeleteFunc(slices.Clone(running), func(l lab.State) bool { return l.Bus == "" })
	switch len(running) {
	case 0:
		return lab.State{}, errors.New("no bus is known: give --bus nats://HOST:PORT, set DELTAPLANE_BUS, or start a lab with 'deltaplane lab up'")
	case 1:
		return running[0], nil
	}
	var choices []string
	for _, state := range running {
		choices = append(choices, fmt.Sprintf("%s for lab %s", state.Bus, state.Name))
	}
	return lab.State{}, fmt.Errorf("which bus? several labs run here: give --bus or set DELTAPLANE_BUS: %s", strings.Join(choices, ", "))
}
