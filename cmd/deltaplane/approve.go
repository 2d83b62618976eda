// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/schemas"
)

func newApproveCommand() *cobra.Command {
	var from busFlags
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Let deletions go ahead that the watcher holds back",
		Long: `A step that would delete a large share of all objects at once is held back, since it is more often a fault than a
wish. 'deltaplane status' shows what is held and its ID; approve lets exactly that step go ahead.`,
		Example: `  deltaplane status
  deltaplane approve 6f1c2a`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("approve takes the one ID that 'deltaplane status' shows")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			var reply schemas.ApproveReply
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
