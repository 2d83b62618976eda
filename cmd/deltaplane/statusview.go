// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of the laggards and of the objects set aside that a table names; -o wide names all.
const (
	behindShown = 20
	asideShown  = 20
)

// statusView writes a status for people.
type statusView struct {
	*clusterStatus
	now   time.Time
	paint paint
	wide  bool
}

func (v statusView) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  rev %s   %s\n", v.paint.bold("CLUSTER"), grouped(v.Revision), v.lastChange())
	v.line(&b, "Converged", v.converged())
	v.behind(&b)
	v.line(&b, "Integrity", v.integrity())
	if use := v.fullest(); use != "" {
		v.line(&b, "Maps", use)
	}
	v.line(&b, "Drops", v.drops())
	v.problems(&b)
	if v.wide {
		v.nodes(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (v statusView) line(b *strings.Builder, title, text string) {
	fmt.Fprintf(b, "%-11s %s\n", title, text)
}

func (v statusView) lastChange() string {
	if v.Committed == nil {
		return "nothing compiled yet"
	}
	text := ago(v.now, *v.Committed)
	if len(v.Causes) == 0 {
		return text
	}
	c := v.Causes[len(v.Causes)-1]
	text += ": " + c.title() + " " + c.verb()
	if c.Manager != "" {
		text += " by " + c.Manager
	}
	if more := len(v.Causes) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (v statusView) converged() string {
	count := fmt.Sprintf("%d / %d nodes", v.Converged, len(v.Nodes))
	if v.Converged == len(v.Nodes) {
		count = v.paint.green(count)
	} else {
		count = v.paint.yellow(count)
	}
	slowest := nodeStatus{}
	var medians []float64
	for _, n := range v.Nodes {
		if n.LatencyP99Millis >= slowest.LatencyP99Millis {
			slowest = n
		}
		medians = append(medians, n.LatencyP50Millis)
	}
	if slowest.LatencyP99Millis == 0 {
		return count
	}
	slices.Sort(medians)
	return fmt.Sprintf("%s   change to kernel: p50 %s  slowest node's p99 %s (%s)",
		count, inMillis(medians[len(medians)/2]), inMillis(slowest.LatencyP99Millis), slowest.Node)
}

func (v statusView) behind(b *strings.Builder) {
	shown := 0
	for _, n := range v.Nodes {
		if n.Converged {
			continue
		}
		if shown++; shown > behindShown && !v.wide {
			continue
		}
		title := "Behind"
		if shown > 1 {
			title = ""
		}
		v.line(b, title, v.paint.yellow(n.Node)+"  "+v.lag(n))
	}
	if left := shown - behindShown; left > 0 && !v.wide {
		v.line(b, "", fmt.Sprintf("and %d more (-o wide names all)", left))
	}
}

func (v statusView) lag(n nodeStatus) string {
	if n.Reported == nil {
		return cmp.Or(n.Reason, "has never reported")
	}
	return fmt.Sprintf("rev %s (-%s)  reported %s  %s", grouped(v.Revision-min(n.Behind, v.Revision)), grouped(n.Behind), ago(v.now, *n.Reported), n.Reason)
}

// integrity counts the converged nodes whose cluster rows have the digest that most have.
func (v statusView) integrity() string {
	count := map[string]int{}
	for _, n := range v.Nodes {
		if n.Converged {
			count[clusterDigest(n)]++
		}
	}
	most := 0
	for digest, c := range count {
		if digest != "" {
			most = max(most, c)
		}
	}
	text := fmt.Sprintf("digest equal on %d/%d converged nodes", most, v.Converged)
	if most != v.Converged {
		return v.paint.red(text)
	}
	return text
}

func clusterDigest(n nodeStatus) string {
	for _, p := range n.Positions {
		if p.Layer == "cluster" {
			return p.Digest
		}
	}
	return ""
}

// fullest shows of each map the node on which it is fullest.
func (v statusView) fullest() string {
	worst := map[string]mapUseJSON{}
	for _, n := range v.Nodes {
		for _, m := range n.Maps {
			if w, seen := worst[m.Name]; !seen || m.Entries*w.Capacity > w.Entries*m.Capacity {
				worst[m.Name] = m
			}
		}
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(worst)) {
		m := worst[name]
		text := fmt.Sprintf("%s %s / %s", versionless(name), grouped(m.Entries), grouped(m.Capacity))
		if m.Entries == 0 && len(worst) > 6 {
			continue // tables that few clusters use
		}
		if m.Capacity > 1 && m.Entries*10 >= m.Capacity*9 {
			text = v.paint.red(text)
		}
		all = append(all, text)
	}
	return strings.Join(all, "   ")
}

// versionless is a map's name without the version of its layout.
func versionless(name string) string {
	if i := strings.LastIndex(name, "_v"); i > 0 {
		return name[:i]
	}
	return name
}

func (v statusView) drops() string {
	total := map[string]uint64{}
	for _, n := range v.Nodes {
		for reason, count := range n.Drops {
			total[reason] += count
		}
	}
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(total)) {
		if total[reason] > 0 {
			all = append(all, grouped(total[reason])+" "+reason)
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

func (v statusView) problems(b *strings.Builder) {
	for _, n := range v.Nodes {
		for _, f := range n.Faults {
			v.line(b, "Fault", v.paint.red(n.Node+": "+f.Kind)+": "+f.Text)
		}
	}
	for i, a := range v.SetAside {
		if left := len(v.SetAside) - i; i >= asideShown && left > 1 && !v.wide {
			v.line(b, "", fmt.Sprintf("and %d more objects are set aside (-o wide names all)", left))
			break
		}
		v.line(b, "Set aside", v.paint.yellow(causeJSON{Kind: a.Kind, Namespace: a.Namespace, Name: a.Name}.title())+": "+a.Reason)
	}
	if v.WatcherProblem != "" {
		v.line(b, "Watcher", v.paint.yellow(v.WatcherProblem))
	}
	if h := v.Held; h != nil {
		v.line(b, "Held", v.paint.red(fmt.Sprintf("%d of %d objects would be deleted", h.Deletions, h.Objects))+
			": if that is meant, run 'deltaplane approve "+h.ID+"'")
	}
}

func (v statusView) nodes(b *strings.Builder) {
	b.WriteString("\n")
	t := newTable("NODE", "STATE", "BEHIND", "MAPS", "P50", "P99", "REPORTED", "DIGEST")
	for _, n := range v.Nodes {
		state, reported := "converged", "never"
		if !n.Converged {
			state = "behind"
		}
		if n.Reported != nil {
			reported = ago(v.now, *n.Reported)
		}
		t.row(n.Node, state, grouped(n.Behind), n.MapsKind, latency(n.LatencyP50Millis), latency(n.LatencyP99Millis), reported, clusterDigest(n))
	}
	b.WriteString(t.String())
}

// inMillis writes a time given in milliseconds, to the precision that matters.
func inMillis(ms float64) string {
	switch {
	case ms >= 1000:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	case ms >= 10:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	}
	return strings.TrimSuffix(strconv.FormatFloat(ms, 'f', 1, 64), ".0") + " ms"
}

// latency is a dash where nothing has been measured.
func latency(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return inMillis(ms)
}

// grouped writes a number with a comma every three digits.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// ago writes how long before now something was, to the precision that matters.
func ago(now, then time.Time) string {
	d := max(now.Sub(then), 0)
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return d.Truncate(time.Second).String() + " ago"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds ago", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm ago", int(d.Hours()), int(d.Minutes())%60)
}
