// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"unicode/utf8"
)

// table aligns columns. Its cells have no colour codes, which would count as width.
type table struct {
	rows   [][]string
	widths []int
}

func newTable(headers ...string) *table {
	t := &table{widths: make([]int, len(headers))}
	t.row(headers...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
	}
	t.rows = append(t.rows, cells)
}

// String returns all rows, two spaces between columns and none at the ends of lines.
func (t *table) String() string {
	var b strings.Builder
	for _, cells := range t.rows {
		var line strings.Builder
		for i, c := range cells {
			line.WriteString(c + strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}
