// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read back what changed, why, and when each node had it",
		Example: `  deltaplane audit tail
  deltaplane audit tail --since 10m -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditTailCommand())
	return cmd
}

func newAuditTailCommand() *cobra.Command {
	var format outputFormat
	var from busFlags
	var sinceText string
	var follow bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow every change, its causes, its deltas, and when each node had applied it",
		Long: `tail reads the log of deltas and the nodes' reports. Each commit is told once, with the objects that caused it and the
rows that it put and removed in each layer; then each node that has it in its kernel.

With -o json each line is one object, with "type": "commit", "applied", "live" (every node has it), or "event".`,
		Example: `  deltaplane audit tail
  deltaplane audit tail --since 1h --follow=false
  deltaplane audit tail --since 812344 -o json | jq -c 'select(.type == "commit") | .causes[]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			since, err := parseSince(sinceText, time.Now())
			if err != nil {
				return err
			}
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			t := &tail{since: since, follow: follow, format: format, out: cmd.OutOrStdout(), names: newNames(), underway: map[uint64]*rollout{}}
			t.paint = paintFor(t.out)
			return t.run(cmd.Context(), conn)
		},
	}
	cmd.Flags().StringVar(&sinceText, "since", "", "begin so long ago (10m, 36h), after a revision (812344), or with all that is kept (all); default now")
	cmd.Flags().BoolVar(&follow, "follow", true, "go on with what happens later, until Ctrl-C")
	format.addFlag(cmd, formatJSONL)
	from.add(cmd)
	return cmd
}

// sincePoint is where to begin: a time or a revision; neither is everything.
type sincePoint struct {
	time     time.Time
	revision uint64
}

func parseSince(text string, now time.Time) (sincePoint, error) {
	if text == "" {
		return sincePoint{time: now}, nil
	}
	if text == "all" {
		return sincePoint{}, nil
	}
	if revision, err := strconv.ParseUint(text, 10, 64); err == nil {
		return sincePoint{revision: revision}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return sincePoint{}, fmt.Errorf("since %q: want a duration such as 10m, a revision such as 812344, or all", text)
	}
	return sincePoint{time: now.Add(-d)}, nil
}

// tail is one run of the command. One goroutine at a time uses it: readers hand over records by a channel.
type tail struct {
	since  sincePoint
	follow bool
	format outputFormat
	out    io.Writer
	paint  paint
	names  *names

	assembler wire.Assembler
	open      *commitJSON
	underway  map[uint64]*rollout // commits that some node still has to apply, by revision
}

// stored is a record and the stream it is from.
type stored struct {
	stream string
	bus.Record
}

func (t *tail) run(ctx context.Context, conn *bus.Conn) error {
	if err := t.names.readFacts(ctx, conn); err != nil {
		return fmt.Errorf("read the pods' names: %w", err)
	}
	t.learnRows(ctx, conn)
	streams := []bus.ReadOptions{
		{Stream: schemas.Deltas.Name, FromTime: t.since.time},
		{Stream: schemas.AppliedReports.Name, FromTime: t.since.time},
		{Stream: schemas.EventLog.Name, FromTime: t.since.time},
	}
	if !t.follow {
		return t.readAll(ctx, conn, streams)
	}
	return t.followAll(ctx, conn, streams)
}

// learnRows asks for the rows there are, so that what a change only names by number has a name. Nobody may answer, or
// not for this user: then numbers stay.
func (t *tail) learnRows(ctx context.Context, conn *bus.Conn) {
	for node := range t.names.nodes {
		if rows, err := (&dumpJSON{Node: node}).request(ctx, conn, schemas.SubjectDesired, "compiler"); err == nil {
			t.names.addRows(rows)
		}
		return
	}
}

// readAll reads one stream after the other: commits first, then who applied them.
func (t *tail) readAll(ctx context.Context, conn *bus.Conn, streams []bus.ReadOptions) error {
	for _, o := range streams {
		if err := conn.Read(ctx, o, func(r bus.Record) error { return t.take(stored{o.Stream, r}) }); err != nil {
			return fmt.Errorf("read %s: %w", o.Stream, err)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

// settle is how long a commit's parts may be apart: they are stored in one batch.
const settle = 100 * time.Millisecond

func (t *tail) followAll(ctx context.Context, conn *bus.Conn, streams []bus.ReadOptions) error {
	group, ctx := errgroup.WithContext(ctx)
	records := make(chan stored, 256)
	for _, o := range streams {
		group.Go(func() error {
			return conn.Follow(ctx, o, func(r bus.Record) error {
				select {
				case records <- stored{o.Stream, r}:
				case <-ctx.Done():
				}
				return nil
			})
		})
	}
	group.Go(func() error {
		for {
			select {
			case r := <-records:
				if err := t.take(r); err != nil {
					return err
				}
			case <-time.After(settle):
				if err := t.flush(); err != nil {
					return err
				}
			case <-ctx.Done():
				return t.flush()
			}
		}
	})
	return group.Wait()
}
