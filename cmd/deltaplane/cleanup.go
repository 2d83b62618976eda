// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// cleanedUp is what cleanup prints as JSON.
type cleanedUp struct {
	DryRun  bool     `json:"dryRun"`
	Removed []string `json:"removed"`
}

func newCleanupCommand() *cobra.Command {
	var format outputFormat
	var pinDir string
	var dry bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove all of deltaplane from this node's kernel",
		Long: `What the programmer leaves in the kernel outlives it on purpose. cleanup removes it: programs of sockets and of
interfaces, filters, maps, the device between nodes, and the bpffs if it was mounted for them. Services are no longer reached through it, and
translated connections end, unless something else serves them. What others have attached or pinned stays.

Stop the node's programmer first: it would attach its programs again. cleanup needs root, in the node's network
namespace. It may be run again.`,
		Example: `  deltaplane cleanup --dry-run
  deltaplane cleanup
  deltaplane cleanup --pin-dir /run/deltaplane/bpf`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			device, errDevice := tunnel.Remove(dry) // first: it mustn't be without its program
			removed, err := bpf.Cleanup(pinDir, dry)
			if device {
				removed = append(removed, "interface "+tunnel.Name)
			}
			err = errors.Join(err, errDevice)
			result := cleanedUp{DryRun: dry, Removed: append([]string{}, removed...)}
			printed := format.print(cmd.OutOrStdout(), result, func(w io.Writer) error { return result.write(w, pinDir) })
			if err != nil {
				return err
			}
			return printed
		},
	}
	format.addFlag(cmd)
	cmd.Flags().StringVar(&pinDir, "pin-dir", "/sys/fs/bpf/deltaplane", "the `folder` that the programmer was given")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be removed, and remove nothing")
	return cmd
}

func (c cleanedUp) write(w io.Writer, pinDir string) error {
	verb := "removed"
	if c.DryRun {
		verb = "would remove"
	}
	for _, what := range c.Removed {
		if _, err := fmt.Fprintf(w, "%s %s\n", verb, what); err != nil {
			return err
		}
	}
	if len(c.Removed) > 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "nothing of deltaplane is in %s or on this node's interfaces\n", pinDir)
	return err
}
