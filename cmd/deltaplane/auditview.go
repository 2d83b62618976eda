// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
)

// print writes one thing that happened: for people a line or a few, else one object.
func (t *tail) print(what any) error {
	var text []byte
	var err error
	switch t.format {
	case formatJSON, formatJSONL:
		text, err = json.Marshal(what)
		text = append(text, '\n')
	case formatYAML:
		text, err = yaml.Marshal(what)
		text = append([]byte("---\n"), text...)
	default:
		text = []byte(t.line(what))
	}
	if err != nil {
		return err
	}
	_, err = t.out.Write(text)
	return err
}

func (t *tail) line(what any) string {
	switch v := what.(type) {
	case commitJSON:
		return t.commitLines(v)
	case appliedJSON:
		how := "in the kernel"
		switch {
		case v.Bytes == 0: // no delta brought it
			how += " by synchronisation"
		case v.LatencyMillis > 0: // else nobody knows when it was triggered
			how += " after " + inMillis(v.LatencyMillis)
		}
		how += fmt.Sprintf("  %s map writes", grouped(v.Writes))
		if v.Bytes > 0 {
			how += fmt.Sprintf(", %s bytes", grouped(v.Bytes))
		}
		return fmt.Sprintf("%s  %s  %s  %s\n", clock(v.Applied), t.paint.faint("rev "+grouped(v.Revision)), padded(v.Node+" "+wire.Clean(v.Layer, wire.MaxName), 28), how)
	case liveJSON:
		return fmt.Sprintf("%s  %s  %s\n", clock(&v.Live), t.paint.faint("rev "+grouped(v.Revision)), t.paint.green(v.line()))
	case eventJSON:
		who := v.Service
		if v.Node != "" {
			who += " " + v.Node
		}
		text := fmt.Sprintf("%s  %s %s: %s", clock(v.Happened), who, wire.Clean(v.Kind, wire.MaxName), wire.Clean(v.Text, len(v.Text)))
		switch v.Severity {
		case "error":
			text = t.paint.red(text)
		case "warning":
			text = t.paint.yellow(text)
		}
		return text + "\n"
	}
	return fmt.Sprintf("%v\n", what)
}

func (t *tail) commitLines(c commitJSON) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s\n", clock(&c.Committed), t.paint.bold("rev "+grouped(c.Revision)), c.causeLine())
	for _, d := range c.Deltas {
		fmt.Fprintf(&b, "%14s%s  %s\n", "", d.Layer, d.summary)
		if t.format == formatWide {
			_, _ = io.WriteString(&b, d.detail())
		}
	}
	return b.String()
}

func (c commitJSON) causeLine() string {
	if len(c.Causes) == 0 {
		return "no object named as the cause"
	}
	newest := c.Causes[len(c.Causes)-1]
	text := newest.title() + " " + newest.verb()
	if newest.Manager != "" {
		text += " by " + newest.Manager
	}
	if more := len(c.Causes) - 1 + int(c.CausesLeftOut); more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

func (d deltaJSON) detail() string {
	var b strings.Builder
	for line := range strings.Lines(d.Put.String()) {
		b.WriteString("                + " + line)
	}
	removed, err := yaml.Marshal(d.Removed)
	if err == nil && strings.TrimSpace(string(removed)) != "{}" {
		for line := range strings.Lines(string(removed)) {
			b.WriteString("                - " + line)
		}
	}
	return b.String()
}

// summary counts what a change puts and removes, such as "+3 backends +3 members -1 frontend".
func summary(c *model.Change) string {
	var parts []string
	for _, n := range []struct {
		count int
		sign  string
		noun  string
	}{
		{len(c.Put.Frontends), "+", "frontend"},
		{len(c.Put.Sets), "+", "set"},
		{len(c.Put.Backends), "+", "backend"},
		{len(c.Put.Members), "+", "member"},
		{len(c.Put.Endpoints), "+", "endpoint"},
		{len(c.Put.Views), "+", "view"},
		{len(c.Put.SourceRanges), "+", "source range"},
		{len(c.Put.Networks), "+", "network"},
		{len(c.Put.HealthChecks), "+", "health check"},
		{len(c.Put.Nodes), "+", "node address"},
		{len(c.Put.Selves), "+", "node row"},
		{len(c.Remove.Frontends), "-", "frontend"},
		{len(c.Remove.Sets), "-", "set"},
		{len(c.Remove.Backends), "-", "backend"},
		{len(c.Remove.Members), "-", "member"},
		{len(c.Remove.Endpoints), "-", "endpoint"},
		{len(c.Remove.Views), "-", "view"},
		{len(c.Remove.SourceRanges), "-", "source range"},
		{len(c.Remove.Networks), "-", "network"},
		{len(c.Remove.HealthChecks), "-", "health check"},
		{len(c.Remove.Nodes), "-", "node address"},
		{len(c.Remove.Selves), "-", "node row"},
	} {
		if n.count > 0 {
			parts = append(parts, fmt.Sprintf("%s%d %s%s", n.sign, n.count, n.noun, ending(n.count)))
		}
	}
	if len(parts) == 0 {
		return "no rows"
	}
	return strings.Join(parts, " ")
}

func ending(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

func clock(at *time.Time) string {
	if at == nil {
		return "--:--:--.---"
	}
	return at.Local().Format("15:04:05.000")
}

func padded(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len(s)))
}
