// SPDX-License-Identifier: Apache-2.0

// Audit-subscriber follows what deltaplane does, from the bus alone: each change and what caused it, the deltas that
// went to the nodes, when each node had them in its kernel, and what people should know. It is an example of a program
// from outside: it uses nats.go, protobuf and deltaplane's schemas, nothing else, and it only reads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/deltaplane/deltaplane/schemas"
)

const usage = `audit-subscriber follows what deltaplane does: each change, its cause, its deltas, and when each node had applied it.

  audit-subscriber                                   from now on
  audit-subscriber --since 1h                        the last hour, then from now on
  audit-subscriber --since 812344 --output json      from a revision on, an object a line

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "audit-subscriber: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("audit-subscriber", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage); flags.PrintDefaults() }
	bus := flags.String("bus", env("DELTAPLANE_BUS", nats.DefaultURL), "`URL` of the NATS servers; also DELTAPLANE_BUS")
	credentials := flags.String("bus-credentials", os.Getenv("DELTAPLANE_BUS_CREDENTIALS"), "`file` with the JWT and key of a user who may read; also DELTAPLANE_BUS_CREDENTIALS")
	ca := flags.String("bus-ca", os.Getenv("DELTAPLANE_BUS_CA"), "`file` with the certificates that the servers' is checked against; also DELTAPLANE_BUS_CA")
	since := flags.String("since", "0s", "begin so long ago (`10m`), at a revision (812344), or with all that is kept (all)")
	output := flags.String("output", "text", "`text` or json")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no flag; see --help", flags.Arg(0))
	}
	begin, err := parseSince(*since, time.Now())
	if err != nil {
		return err
	}
	printer, err := newPrinter(*output, stdout, begin.revision)
	if err != nil {
		return err
	}
	return follow(ctx, login{*bus, *credentials, *ca}, begin, printer, stderr)
}

// follow connects and prints until ctx ends.
func follow(ctx context.Context, l login, begin begin, p *printer, stderr io.Writer) error {
	reading, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	conn, err := l.connect(ctx, refuse, stderr)
	if err != nil {
		return err
	}
	defer conn.Close()
	from := streams{conn, l.apiPrefix(), stderr}
	var sources []<-chan record
	for _, s := range []schemas.Stream{schemas.Deltas, schemas.AppliedReports, schemas.EventLog} {
		sources = append(sources, from.read(reading, s.Name, begin))
	}
	if err := merge(reading, sources, p.print); err != nil || ctx.Err() != nil {
		return err
	}
	return context.Cause(reading)
}

// begin is where to begin: a time, or a revision in what is kept. Zero is all.
type begin struct {
	time     time.Time
	revision uint64
}

func parseSince(text string, now time.Time) (begin, error) {
	if text == "all" {
		return begin{}, nil
	}
	if revision, err := strconv.ParseUint(text, 10, 64); err == nil {
		return begin{revision: revision}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return begin{time: now.Add(-ago)}, nil
	}
	return begin{}, fmt.Errorf("--since %q: want a duration such as 10m, a revision such as 812344, or all", text)
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
