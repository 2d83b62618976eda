// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/schemas"
)

func newRollbackCommand() *cobra.Command {
	var from busFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "rollback REVISION",
		Short: "Make every node as it was at a revision, and hold it there",
		Long: `rollback makes all rows on all nodes what they were at a revision that DELTA keeps (72 hours), as one or a few new
revisions. Then the compiler holds: changes of the cluster are taken in, but no node hears of them until
'deltaplane resume'. So mend the objects first, then resume. Kubernetes itself isn't changed.

Without --yes it only says how much would change. Pods that began after the revision are unknown again: they serve no
Service, and where there are policies nothing reaches them. Nodes that joined since keep their policies and lose their
Services. 'deltaplane audit tail' shows which revision was which change's.`,
		Example: `  deltaplane audit tail --since 1h
  deltaplane rollback 812344
  deltaplane rollback 812344 --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || revision == 0 {
				return fmt.Errorf("roll back to %q: want a revision, such as 812344, as 'deltaplane audit tail' shows it", args[0])
			}
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			var reply schemas.RollbackReply
			request := &schemas.RollbackRequest{Revision: revision, By: whoAsks(), DryRun: !yes}
			if err := order(cmd.Context(), conn, schemas.SubjectRollback, "compiler", request, &reply); err != nil {
				return err
			}
			switch {
			case yes && !reply.GetDone() || reply.GetRevision() == 0:
				return errors.New("not rolled back: " + reply.GetText())
			case !yes:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\nNothing was done. If that is meant: deltaplane rollback %d --yes\n", reply.GetText(), revision)
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "rolled back: %s\nMend the objects, then: deltaplane resume\n", reply.GetText())
			return err
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	from.add(cmd)
	return cmd
}

func newResumeCommand() *cobra.Command {
	var from busFlags
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "End what rollback holds: compile all changes again",
		Long: `resume ends the hold of a rollback: the compiler compiles everything as the cluster is now, and nodes get how that
differs from what they have. 'deltaplane wait' returns once they have it.`,
		Example: `  deltaplane resume && deltaplane wait`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			var reply schemas.ResumeReply
			if err := order(cmd.Context(), conn, schemas.SubjectResume, "compiler", &schemas.ResumeRequest{By: whoAsks()}, &reply); err != nil {
				return err
			}
			if !reply.GetDone() {
				return errors.New("not resumed: " + reply.GetText())
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "resumed: "+reply.GetText())
			return err
		},
	}
	from.add(cmd)
	return cmd
}

// whoAsks names this user for those who read the log later. Nobody checks it: the bus says who may ask.
func whoAsks() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
