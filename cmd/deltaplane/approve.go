// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/schemas"
)

func newApproveCommand() *cobra.Command {
	var from busFlags
	cmd := &cobra.Command{
		Use:   "approve [ID]",
		Short: "Let deletions go ahead that the watcher holds back",
		Long: `A step that would delete a large share of all objects at once is held back, since it is more often a fault than a
wish. Without an ID approve says what is held, and under which ID; with it, it lets exactly that go ahead: if more has come
to be held since, the ID is another one, and nothing is done.`,
		Example: `  deltaplane approve
  deltaplane approve 6f1c2a`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			var reply schemas.ApproveReply
			if len(args) == 0 {
				if err := ask(cmd.Context(), conn, schemas.SubjectApprove, "watcher", &schemas.ApproveRequest{}, &reply); err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), reply.GetText())
				return err
			}
			if err := order(cmd.Context(), conn, schemas.SubjectApprove, "watcher", &schemas.ApproveRequest{Id: args[0]}, &reply); err != nil {
				return err
			}
			if !reply.GetApproved() {
				return fmt.Errorf("not approved: %s", reply.GetText())
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "approved: "+reply.GetText())
			return err
		},
	}
	from.add(cmd)
	return cmd
}
