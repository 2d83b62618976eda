// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/deltaplane/deltaplane/internal/lab"

// labBus returns the URL of the bus of the lab that runs on this machine; empty if none does, or if several do and
// none has the default name.
func labBus() string {
	if state, err := lab.ReadState(lab.DefaultName); err == nil {
		return state.Bus
	}
	if running := lab.Running(); len(running) == 1 {
		return running[0].Bus
	}
	return ""
}
