// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newRootCommand returns the command tree. program is what the binary was called by: as kubectl-deltaplane it is a
// kubectl plugin and says so in its help.
func newRootCommand(program string) *cobra.Command {
	root := &cobra.Command{
		Use:   "deltaplane",
		Short: "See, explain and try a Kubernetes data plane",
		Long: `deltaplane shows what the data plane does and why: how far every node has come, what is in a node's kernel,
what happens to a packet, and what changed when.

Exit codes: 0 ok, 1 error, 2 changes, 3 not healthy.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	if strings.HasPrefix(filepath.Base(program), "kubectl-") {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl deltaplane"}
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: "look", Title: "Look at a cluster:"},
		&cobra.Group{ID: "act", Title: "Act on a cluster:"},
		&cobra.Group{ID: "try", Title: "Try without a cluster:"},
	)
	addCommands(root, "look", newStatusCommand(), newWaitCommand(), newDumpCommand(), newFlowsCommand(), newAuditCommand(), newExplainCommand(), newVersionCommand())
	addCommands(root, "act", newApproveCommand(), newRollbackCommand(), newResumeCommand(), newTrustCommand(), newCleanupCommand())
	addCommands(root, "try", newDemoCommand(), newLabCommand())
	root.SetFlagErrorFunc(seeHelp)
	pointToHelp(root)
	return root
}

// pointToHelp has each command say where its arguments are explained.
func pointToHelp(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return seeHelp(cmd, check(cmd, args)) }
	}
	for _, one := range cmd.Commands() {
		pointToHelp(one)
	}
}

func seeHelp(cmd *cobra.Command, err error) error {
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
}

func addCommands(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, command := range commands {
		command.GroupID = group
		root.AddCommand(command)
	}
}
