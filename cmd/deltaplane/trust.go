// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/trust"
)

func newTrustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Make the keys, accounts and certificates of the bus",
		Long: `trust makes who may do what on the bus: a NATS operator with its accounts, credentials for each kind of user, TLS
certificates, and the keys that deltas and facts are sealed with. All of it is in one folder: keep that, above all its
keys/, where only you can read it. Each other folder in it is for one kind of user, and becomes a Secret.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTrustInitCommand(), newTrustNodeCommand(), newTrustUserCommand(), newTrustRotateCommand(), newTrustRevokeCommand(), newTrustAllowCommand())
	return cmd
}

func newTrustInitCommand() *cobra.Command {
	var hosts, nodes []string
	cmd := &cobra.Command{
		Use:   "init FOLDER",
		Short: "Make what is missing, and accounts and certificates anew",
		Long: `init makes all keys that are missing in the folder, and from them accounts, credentials and certificates. Keys that are
there stay: run it again after an upgrade, with other hosts, or before the servers' certificate ends after two years.`,
		Example: `  deltaplane trust init ./trust --host 192.0.2.11,192.0.2.12,192.0.2.13
  kubectl -n deltaplane-system create secret generic deltaplane-compiler --from-file=./trust/compiler`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := trust.Init(args[0], hosts)
			if err != nil {
				return err
			}
			for _, node := range nodes {
				if err := folder.Node(node); err != nil {
					return err
				}
			}
			tellFolders(cmd.OutOrStdout(), folder)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&hosts, "host", []string{"127.0.0.1", "localhost"}, "names and addresses at which the bus's servers are reached, by clients and by each other")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "nodes without a ServiceAccount, to make credentials for, too")
	return cmd
}

func tellFolders(w io.Writer, folder *trust.Folder) {
	table := newTable("FOLDER", "FOR")
	for _, row := range [][2]string{
		{"bus", "the bus's servers: accounts and certificate"},
		{"watcher", "the watchers; with it nodes are let in"},
		{"compiler", "the compilers"},
		{"programmer", "all programmers: to join by their ServiceAccount, and whom to believe"},
		{"operator", "people with this command line"},
		{"reader", "programs that only read, such as the audit subscriber"},
		{"admin", "people who repair streams, with the nats command line"},
		{"system", "people who watch the bus's servers"},
		{"keys", "nobody: keep it safe, it makes all of these"},
	} {
		table.row(folder.Path(row[0]), row[1])
	}
	fmt.Fprint(w, table.String())
}

func newTrustNodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "node FOLDER NODE...",
		Short: "Make credentials for nodes that have no ServiceAccount",
		Long: `node makes a folder with the credentials of each node, for programmers that run without Kubernetes. They have no end: in
a cluster nodes join by their ServiceAccount, and get credentials for half a day.`,
		Example: `  deltaplane trust node ./trust node-a node-b`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := trust.Open(args[0])
			if err != nil {
				return err
			}
			for _, node := range args[1:] {
				if err := folder.Node(node); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", node, folder.NodePath(node))
			}
			return nil
		},
	}
}

func newTrustUserCommand() *cobra.Command {
	role := trust.RoleOperator
	cmd := &cobra.Command{
		Use:   "user FOLDER NAME",
		Short: "Make credentials for one more person or program",
		Long: `user makes a folder with credentials of somebody's own, so that the bus's servers tell people apart. Roles are operator
(this command line), reader (reads all streams, changes nothing), admin (repairs streams) and system (watches the servers).`,
		Example: `  deltaplane trust user ./trust ada
  deltaplane trust user ./trust archive --role reader`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := trust.Open(args[0])
			if err != nil {
				return err
			}
			made, err := folder.User(role, args[1])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[1], made)
			return nil
		},
	}
	cmd.Flags().StringVar(&role, "role", role, "what the user may do: operator, reader, admin or system")
	return cmd
}

func newTrustRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate FOLDER KEY",
		Short: "Take the next step of replacing a key",
		Long: `rotate replaces a key in three steps, so that nothing is ever said with a key that isn't believed: it introduces a new
one, which is believed and not used yet; then the new one is used; then the old one is believed no more. After each step
give the files that it names to whom they are for, and run it again.

KEY is one of ` + strings.Join(trust.Keys(), ", ") + `.`,
		Example: `  deltaplane trust rotate ./trust seal-compiler
  deltaplane trust rotate ./trust node`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := trust.Open(args[0])
			if err != nil {
				return err
			}
			rotation, err := folder.Rotate(args[1])
			if err != nil {
				return err
			}
			tellRotation(cmd.OutOrStdout(), args[0], rotation)
			return nil
		},
	}
}

func tellRotation(w io.Writer, folder string, r trust.Rotation) {
	again := fmt.Sprintf("run again when they are there: deltaplane trust rotate %s %s", folder, r.Key)
	what := map[string]string{
		trust.StepIntroduced: "a new key is believed, and not used yet",
		trust.StepUsed:       "the new key is used, and the old one still believed",
		trust.StepRetired:    "the old key is believed no more, once these files are there",
	}[r.Step]
	tellChanged(w, r.Key+": "+what, folder, r.Changed)
	if r.Servers {
		fmt.Fprintln(w, reloadServers)
	}
	if r.Step != trust.StepRetired {
		fmt.Fprintf(w, "  %s\n", again)
	}
}
