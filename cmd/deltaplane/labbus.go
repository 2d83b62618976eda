// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/deltaplane/deltaplane/internal/lab"

// labBus returns the URL of the bus of a lab that runs on this machine; empty if none does.
func labBus() string {
	state, err := lab.ReadState(lab.DefaultName)
	if err != nil {
		return ""
	}
	return state.Bus
}
