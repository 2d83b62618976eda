// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/trust"
)

func newTrustRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke FOLDER NODE",
		Short: "Put a node out, until allow",
		Long: `revoke puts a node out of the bus: the watchers let it in no more and give it no credential, and the bus's servers close
its connections and refuse all credentials that it was ever given. Nodes share the keys that sign their credentials, some
thirty of them: those that share the node's show their tokens once more and are back within seconds.

It changes files. Give them to whom they are for, the watchers first. What the node's kernel holds stays as it is.`,
		Example: `  deltaplane trust revoke ./trust node-a`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := trust.Open(args[0])
			if err != nil {
				return err
			}
			changed, err := folder.Revoke(args[1])
			if err != nil {
				return err
			}
			tellChanged(cmd.OutOrStdout(), args[1]+" is put out, once these files are there", args[0], changed)
			fmt.Fprintln(cmd.OutOrStdout(), reloadServers)
			return nil
		},
	}
}

func newTrustAllowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "allow FOLDER NODE",
		Short: "Let a node in again that was put out",
		Long: `allow takes back what revoke did: the node may join by its ServiceAccount again, or with files that trust node makes anew.
Credentials that it had before stay refused.`,
		Example: `  deltaplane trust allow ./trust node-a`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := trust.Open(args[0])
			if err != nil {
				return err
			}
			changed, err := folder.Allow(args[1])
			if err != nil {
				return err
			}
			tellChanged(cmd.OutOrStdout(), args[1]+" may join again, once this file is there", args[0], changed)
			return nil
		},
	}
}

// reloadServers is said when the servers have new accounts.
const reloadServers = "  then on each of the bus's servers: nats-server --signal reload"

func tellChanged(w io.Writer, what, folder string, files []string) {
	fmt.Fprintln(w, what)
	for _, file := range files {
		fmt.Fprintf(w, "  changed: %s\n", filepath.Join(folder, file))
	}
}
