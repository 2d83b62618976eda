// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Update is the variable under which DocumentedMetrics writes its page instead of comparing it.
const Update = "DELTAPLANE_UPDATE"

// DocumentedMetrics compares docs/reference/metrics-SERVICE.md with what a service's registry holds, but for the Go
// runtime's and the process' own. Tests run two folders below the top.
func DocumentedMetrics(t *testing.T, service string, registry *prometheus.Registry) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "reference", "metrics-"+service+".md")
	want := metricsPage(service, registry)
	if os.Getenv(Update) == "1" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale: run make generate\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// metric is one line of the page.
type metric struct{ name, labels, help string }

// described matches how a prometheus.Desc prints: its fields are not to be had in another way.
var described = regexp.MustCompile(`fqName: "([^"]+)", help: "((?:[^"\\]|\\.)*)"(?:, unit: "[^"]*")?, constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}`)

func metricsPage(service string, registry *prometheus.Registry) string {
	var page strings.Builder
	fmt.Fprintf(&page, "<!-- Written by the tests of services/%s from its registry: change it there and run make generate. -->\n\n", service)
	fmt.Fprintf(&page, "# Metrics of the %s\n\nOn `/metrics` of its `--listen` address, besides the Go runtime's and the process' own.\n\n", service)
	page.WriteString("| metric | labels | what it says |\n|---|---|---|\n")
	for _, m := range metricsOf(registry) {
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", m.name, m.labels, strings.ReplaceAll(m.help, "|", `\|`))
	}
	return page.String()
}

func metricsOf(registry *prometheus.Registry) []metric {
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		registry.Describe(descriptions)
	}()
	var all []metric
	for d := range descriptions {
		m := described.FindStringSubmatch(d.String())
		if m == nil || strings.HasPrefix(m[1], "go_") || strings.HasPrefix(m[1], "process_") {
			continue
		}
		labels := strings.ReplaceAll(m[3], ",", "`, `")
		if labels != "" {
			labels = "`" + labels + "`"
		}
		all = append(all, metric{m[1], labels, m[2]})
	}
	slices.SortFunc(all, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return all
}
