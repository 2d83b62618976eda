// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestEveryCommandSaysHowItIsUsed(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Hidden || c.Name() == "help" || !c.HasParent() {
			return
		}
		if c.Short == "" || c.Example == "" && !c.HasSubCommands() {
			t.Errorf("%s has no short text or no example", c.CommandPath())
		}
		if !c.HasParent() || c.Parent().HasParent() {
			return
		}
		if c.GroupID == "" {
			t.Errorf("%s is in no group of the root's help", c.CommandPath())
		}
	}
	walk(newRootCommand("deltaplane"))
}

func TestAsPluginItIsCalledByItsPluginName(t *testing.T) {
	status, _, err := newRootCommand("/usr/local/bin/kubectl-deltaplane").Find([]string{"status"})
	if err != nil || status.CommandPath() != "kubectl deltaplane status" {
		t.Errorf("it calls itself %q (%v)", status.CommandPath(), err)
	}
}
