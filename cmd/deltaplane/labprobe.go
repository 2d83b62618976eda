// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

func newLabProbeCommand(name *string) *cobra.Command {
	var format outputFormat
	var r lab.ProbeRequest
	cmd := &cobra.Command{
		Use:   "probe --from PLACE --to TARGET",
		Short: "Connect from one place of a lab to another and see what happens",
		Long: `probe connects from inside a pod, a node or the outside client: each time with a new socket, opened by a process that
lives there, or with --stream on one socket. A TARGET is HOST:PORT, NS/SVC:PORT, NS/POD:PORT or node/NAME:PORT; a PORT may
be a name. What the outside client sends to addresses of Services goes to the first node, or to that of --via.

Outcomes: ok, refused (an answer of no), timeout (no answer), unreachable (no way there).`,
		Example: `  deltaplane lab probe --from shop/web --to shop/catalog:80
  deltaplane lab probe --from node/node-2 --to 10.96.0.11:53 --proto udp --count 10 -o json
  deltaplane lab probe --from outside --via node/node-3 --to 192.0.2.80:80
  deltaplane lab probe --from shop/web --to shop/dns:53 --proto udp --stream --count 100 --interval 100ms`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			control, err := lab.Connect(*name)
			if err != nil {
				return err
			}
			report, err := control.Probe(cmd.Context(), r)
			if err != nil {
				return err
			}
			return format.print(cmd.OutOrStdout(), report, func(w io.Writer) error { return probeTable(w, report) })
		},
	}
	format.addFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&r.From, "from", "", "place to connect from: NS/POD, node/NAME or outside")
	flags.StringVar(&r.To, "to", "", "target to connect to")
	flags.StringVar(&r.Protocol, "proto", "tcp", "tcp, udp or sctp")
	flags.IntVar(&r.Family, "family", 0, "4 or 6, for a target that has both; 0 is the target's first")
	flags.Uint16Var(&r.SourcePort, "source-port", 0, "port to connect from; 0 is any")
	flags.StringVar(&r.Via, "via", "", "node that the outside client sends to: node/NAME")
	flags.IntVar(&r.Count, "count", 1, "how many connections to make, or questions to ask, one after the other")
	flags.DurationVar(&r.Interval, "interval", 0, "from the start of one to the start of the next, at least")
	flags.BoolVar(&r.Stream, "stream", false, "ask on one socket again and again, a TCP connection or a connected UDP socket")
	flags.DurationVar(&r.Timeout, "timeout", lab.ProbeTimeout, "how long each may take")
	flags.BoolVar(&r.HTTP, "http", false, "speak HTTP over TCP")
	flags.BoolVar(&r.Unconnected, "unconnected", false, "send UDP without connecting the socket")
	must(cmd.MarkFlagRequired("from"))
	must(cmd.MarkFlagRequired("to"))
	return cmd
}

func probeTable(w io.Writer, report *lab.ProbeReport) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "OUTCOME\tREACHED\tSEEN AS\tTOOK\tERROR")
	for _, r := range report.Results {
		seen := ""
		if r.ClientAddress != "" {
			seen = fmt.Sprintf("%s port %d", r.ClientAddress, r.ClientPort)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Outcome, r.Reached, seen, time.Duration(r.LatencyMicros)*time.Microsecond, r.Error)
	}
	return table.Flush()
}

func newLabExecCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec PLACE -- CMD...",
		Short: "Run a command inside a pod, a node or the outside client",
		Long: `exec runs a command in the place's network namespace and cgroup, with this machine's files. Its exit code is the
command's.`,
		Example: `  deltaplane lab exec shop/web -- curl -s http://10.96.0.11/hostname
  deltaplane lab exec node/node-1 -- ip route`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needRoot("run a command in a lab"); err != nil {
				return err
			}
			control, err := lab.Connect(*name)
			if err != nil {
				return err
			}
			at, err := control.Place(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			child := exec.CommandContext(cmd.Context(), args[1], args[2:]...)
			child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := space.Start(child, space.OpenNamespace(at.Namespace), space.OpenCgroup(at.Cgroup)); err != nil {
				return fmt.Errorf("run %s in %s: %w", args[1], at.Name, err)
			}
			return exitOf(child.Wait())
		},
	}
}

// exitOf hands a command's exit code on; the command has said all else itself.
func exitOf(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exitStatus(exit.ExitCode())
	}
	return err
}
