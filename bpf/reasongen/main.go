// SPDX-License-Identifier: Apache-2.0

// Reasongen writes bpf/include/reasons.h from the drop reasons of internal/model, so that C, Go, metrics and
// documents say the same numbers. It takes the path of the header; bpf's go:generate calls it.
package main

import (
	"fmt"
	"os"

	"github.com/deltaplane/deltaplane/bpf/reasongen/reasons"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: reasongen HEADER")
		os.Exit(1)
	}
	if err := os.WriteFile(os.Args[1], reasons.Header(), 0o644); err != nil {
		fmt.Fprintf(os.Stderr, "write the drop reasons: %v\n", err)
		os.Exit(1)
	}
}
