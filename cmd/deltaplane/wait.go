// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// waitPause is between two looks at the status.
const waitPause = 100 * time.Millisecond

func newWaitCommand() *cobra.Command {
	var from busFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [KIND/NAMESPACE/NAME | KIND/NAME | REVISION]",
		Short: "Wait until a change is in the kernel of every node",
		Long: `wait returns when every node has applied a revision: the one given, the newest one that an object caused, or without
an argument the newest there is. It exits with 3, and names the nodes that lack it, when the time is over.`,
		Example: `  deltaplane wait
  deltaplane wait service/shop/cart --timeout 10s
  deltaplane wait 812344`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := parseGoal(args)
			if err != nil {
				return err
			}
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			s, err := what.wait(ctx, conn)
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "live on %d of %d nodes: revision %s\n", len(s.Nodes), len(s.Nodes), grouped(what.revision))
				return err
			}
			if ctx.Err() == nil || cmd.Context().Err() != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "not live everywhere after %s: %s\n", timeout, what.missing(s))
			return exitStatus(exitNotHealthy)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	from.add(cmd)
	return cmd
}

// goal is what is waited for: a revision, or what an object last caused.
type goal struct {
	revision        uint64
	kind, ns, name  string // empty unless an object is meant
	newestWhenAsked bool
	read            uint64 // how far the log has been read
}

func parseGoal(args []string) (*goal, error) {
	if len(args) == 0 {
		return &goal{newestWhenAsked: true}, nil
	}
	if revision, err := strconv.ParseUint(args[0], 10, 64); err == nil {
		return &goal{revision: revision}, nil
	}
	parts := strings.Split(args[0], "/")
	switch len(parts) {
	case 2:
		return &goal{kind: parts[0], name: parts[1]}, nil
	case 3:
		return &goal{kind: parts[0], ns: parts[1], name: parts[2]}, nil
	}
	return nil, fmt.Errorf("wait for %q: want a revision, KIND/NAMESPACE/NAME such as service/shop/cart, or KIND/NAME", args[0])
}

// wait returns once every node has it. Besides an error it returns the last status seen.
func (g *goal) wait(ctx context.Context, conn *bus.Conn) (*clusterStatus, error) {
	last := &clusterStatus{}
	for {
		if err := g.find(ctx, conn); err != nil {
			return last, err
		}
		s, err := readStatus(ctx, conn)
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			return last, err
		}
		if err == nil {
			last = s
			if g.newestWhenAsked {
				g.newestWhenAsked, g.revision = false, s.Revision
			}
			if g.revision > 0 && len(g.lacking(s)) == 0 && s.Revision >= g.revision {
				return s, nil
			}
		}
		select {
		case <-time.After(waitPause):
		case <-ctx.Done():
			return last, ctx.Err()
		}
	}
}

// find looks in the log for the newest revision that the object caused.
func (g *goal) find(ctx context.Context, conn *bus.Conn) error {
	if g.kind == "" || g.revision > 0 {
		return nil
	}
	return conn.Read(ctx, bus.ReadOptions{Stream: schemas.Deltas.Name, FromSequence: g.read + 1}, func(r bus.Record) error {
		g.read = r.Sequence
		if r.Subject == schemas.SubjectEpoch || r.Subject == schemas.SubjectCheckpoint {
			return nil
		}
		part, err := wire.DecodeDelta(r.Data)
		if err != nil {
			return nil // not for this command to judge
		}
		for _, c := range part.Delta.Causes {
			if strings.EqualFold(c.Kind, g.kind) && c.Namespace == g.ns && c.Name == g.name {
				g.revision = uint64(part.Delta.To)
			}
		}
		return nil
	})
}

// lacking names the nodes that don't have the revision.
func (g *goal) lacking(s *clusterStatus) []string {
	var nodes []string
	for _, n := range s.Nodes {
		if n.Reported == nil || s.Revision-min(n.Behind, s.Revision) < g.revision {
			nodes = append(nodes, n.Node)
		}
	}
	return nodes
}

func (g *goal) missing(s *clusterStatus) string {
	switch {
	case g.revision == 0 && g.kind != "":
		return "no change that " + strings.Trim(g.kind+"/"+g.ns+"/"+g.name, "/") + " caused has been seen"
	case g.revision == 0:
		return "nothing is compiled yet"
	case s.Revision < g.revision:
		return fmt.Sprintf("the cluster is at revision %s, before %s", grouped(s.Revision), grouped(g.revision))
	}
	nodes := g.lacking(s)
	text := strings.Join(nodes[:min(len(nodes), 10)], ", ")
	if more := len(nodes) - 10; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("revision %s isn't on %s", grouped(g.revision), text)
}
