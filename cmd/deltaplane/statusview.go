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
	if v.Hold != nil {
		v.line(&b, "ROLLED BACK", v.paint.red(v.Hold.text(v.now)))
	}
	v.line(&b, "Converged", v.converged())
	v.unconverged(&b)
	v.line(&b, "Integrity", v.integrity())
	v.line(&b, "Seals", v.seals())
	v.replicas(&b)
	v.line(&b, "Streams", v.streams())
	if use := v.fullest(); use != "" {
		v.line(&b, "Maps", use)
	}
	v.line(&b, "Drops", v.drops())
	v.external(&b)
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
	waited := v.NodesTotal - v.Lost
	count := grouped(uint64(v.Converged)) + " / " + grouped(uint64(waited)) + " nodes"
	if v.Converged == waited {
		count = v.paint.green(count)
	} else {
		count = v.paint.yellow(count)
	}
	if v.Updating > 0 {
		count += fmt.Sprintf(", %s updating", grouped(uint64(v.Updating)))
	}
	if v.LatencyP99Millis == 0 {
		return count
	}
	slowest := nodeStatus{}
	for _, n := range v.Nodes {
		if n.LatencyP99Millis >= slowest.LatencyP99Millis {
			slowest = n
		}
	}
	return fmt.Sprintf("%s   change to kernel: p50 %s  p99 %s  slowest node's p99 %s (%s)", count,
		inMillis(v.LatencyP50Millis), inMillis(v.LatencyP99Millis), inMillis(slowest.LatencyP99Millis), slowest.Node)
}

// unconverged names the nodes that are behind, with why, and those that are lost.
func (v statusView) unconverged(b *strings.Builder) {
	v.name(b, "Behind", "behind", v.behind(), func(n nodeStatus) string { return v.paint.yellow(n.Node) + "  " + v.lag(n) })
	v.name(b, "Lost", "lost", v.Lost, func(n nodeStatus) string { return n.Node + "  " + n.Reason })
}

// name writes a line for each of the nodes in one state, up to a bound.
func (v statusView) name(b *strings.Builder, title, state string, count int, text func(nodeStatus) string) {
	shown := 0
	for _, n := range v.Nodes {
		if n.State != state || shown >= behindShown && !v.wide {
			continue
		}
		if shown++; shown > 1 {
			title = ""
		}
		v.line(b, title, text(n))
	}
	if left := count - shown; left > 0 {
		v.line(b, "", fmt.Sprintf("and %s more %s (-o wide names all that a message has room for)", grouped(uint64(left)), state))
	}
}

func (v statusView) lag(n nodeStatus) string {
	if n.Reported == nil {
		return cmp.Or(n.Reason, "has never reported")
	}
	text := fmt.Sprintf("rev %s (-%s)", grouped(v.Revision-min(n.Behind, v.Revision)), grouped(n.Behind))
	if n.LackingSince != nil {
		text += "  for " + inMillis(millis(v.now.Sub(*n.LackingSince)))
	}
	return fmt.Sprintf("%s  reported %s  %s", text, ago(v.now, *n.Reported), n.Reason)
}

// integrity says whether nodes have other rows than were compiled, at the same revision. Converged ones haven't: that is
// what the compiler compares.
func (v statusView) integrity() string {
	var drifted []string
	for _, n := range v.Nodes {
		if n.Drifted {
			drifted = append(drifted, n.Node)
		}
	}
	text := fmt.Sprintf("digest as compiled on %s converged nodes", grouped(uint64(v.Converged)))
	if len(drifted) > 0 {
		text += v.paint.red(fmt.Sprintf(", another on %d: %s", len(drifted), strings.Join(drifted[:min(len(drifted), behindShown)], ", ")))
	}
	return text
}

// seals says who believes everyone on the bus, for want of keys to check seals by.
func (v statusView) seals() string {
	var believers []string
	if !v.ChecksSeals {
		believers = append(believers, "the compiler")
	}
	nodes := 0
	for _, n := range v.Nodes {
		if n.Reported == nil || n.ChecksSeals {
			continue
		}
		if nodes++; nodes <= behindShown || v.wide {
			believers = append(believers, "node "+n.Node)
		}
	}
	if len(believers) == 0 {
		return "checked by the compiler and all nodes that report"
	}
	text := strings.Join(believers, ", ")
	if left := nodes - behindShown; left > 0 && !v.wide {
		text += fmt.Sprintf(" and %s more nodes", grouped(uint64(left)))
	}
	return v.paint.red("NOT CHECKED") + " by " + text + ": whoever may publish on the bus decides about packets there (--trusted-keys)"
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
	var all []string
	for _, m := range v.Maps {
		text := fmt.Sprintf("%s %s / %s", versionless(m.Name), grouped(m.Entries), grouped(m.Capacity))
		if m.Entries == 0 && len(v.Maps) > 6 {
			continue // tables that few clusters use
		}
		if m.Capacity > 1 && m.Entries*10 >= m.Capacity*9 {
			text = v.paint.red(text + " (" + m.Node + ")")
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
	total := v.Drops
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
	for _, s := range v.Streams {
		for _, problem := range s.Problems {
			v.line(b, "Stream", v.paint.red(problem))
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
	t := newTable("NODE", "STATE", "BEHIND", "MAPS", "P50", "P99", "REPORTED", "EXTERNAL", "DIGEST")
	for _, n := range v.Nodes {
		reported := "never"
		if n.Reported != nil {
			reported = ago(v.now, *n.Reported)
		}
		t.row(n.Node, n.State, grouped(n.Behind), n.MapsKind, latency(n.LatencyP50Millis), latency(n.LatencyP99Millis), reported, n.External.String(), clusterDigest(n))
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
