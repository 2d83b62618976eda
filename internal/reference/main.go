// SPDX-License-Identifier: Apache-2.0

// Command reference writes docs/reference from the code: subjects and streams, drop reasons, map layouts, command lines,
// and which test shows which behaviour. What a page says stands in the code as a comment or a value and nowhere else; a
// test compares the committed pages with what the code says now.
//
// It runs from the repository's top: go run ./internal/reference.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

//go:generate go run . -C ../..

// pages are what is written, by file name below docs/reference.
var pages = map[string]func(top string) (string, error){
	"subjects.md":     subjects,
	"drop-reasons.md": dropReasons,
	"map-layouts.md":  mapLayouts,
	"cli.md":          commandLines,
	"services.md":     servicesPage.write,
	"policy.md":       policyPage.write,
	"traps.md":        trapsPage,
	"promises.md":     promisesPage.write,
	"faults.md":       faultsPage.write,
	"permissions.md":  permissionsPage,
}

func main() {
	top := "."
	if len(os.Args) == 3 && os.Args[1] == "-C" {
		top = os.Args[2]
	}
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		if err := write(top, name, pages[name]); err != nil {
			fmt.Fprintf(os.Stderr, "reference: %v\n", err)
			os.Exit(1)
		}
	}
}

func write(top, name string, page func(string) (string, error)) error {
	text, err := page(top)
	if err != nil {
		return fmt.Errorf("docs/reference/%s: %w", name, err)
	}
	return os.WriteFile(filepath.Join(top, "docs", "reference", name), []byte(text), 0o644)
}
