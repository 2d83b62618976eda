// SPDX-License-Identifier: Apache-2.0

// Command deltaplane is what an operator talks to: it shows how the cluster stands, explains what happens to a
// packet and why, reads back what changed, and runs a whole cluster in network namespaces.
//
// One file has one command, and root.go puts them together. Results go to standard output, all else to standard
// error; the exit code is 0 for success, 1 for an error, 2 for "there are changes", 3 for "not healthy". Scripts
// depend on flags, JSON fields and exit codes: changing one is a breaking change.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run ends commands in an orderly way at the first Ctrl-C; a second one kills the process, since the handler is
// gone by then.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := newRootCommand(os.Args[0])
	err := root.ExecuteContext(ctx)
	if message := messageOf(err); message != "" {
		fmt.Fprintln(os.Stderr, "Error: "+message)
	}
	return exitCode(err)
}
