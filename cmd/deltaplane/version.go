// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/version"
)

func newVersionCommand() *cobra.Command {
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Example: `  deltaplane version
  deltaplane version -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := version.Current()
			return format.print(cmd.OutOrStdout(), info, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "deltaplane %s (%s, %s %s/%s)\n", info.Version, info.Commit, info.Go, info.OS, info.Arch)
				return err
			})
		},
	}
	format.addFlag(cmd)
	return cmd
}
