// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/deltaplane/deltaplane/internal/explain"
)

// writeAnswer tells an answer to people: the verdict, what policies said if they stopped it, how it came about, and the
// objects that are the cause.
func writeAnswer(w io.Writer, p paint, a *explain.Answer) error {
	var b strings.Builder
	b.WriteString(answerTitle(p, a) + "\n")
	if at, verdict := deniedAt(a); at != "" {
		b.WriteString("  " + a.Path + "\n")
		writePolicies(&b, p, verdict)
	}
	for i, step := range a.Steps {
		fmt.Fprintf(&b, "%3d. %s\n", i+1, step)
	}
	if len(a.Causes) > 0 {
		b.WriteString(p.faint("Caused by") + "\n")
	}
	for _, c := range a.Causes {
		line := "     " + causeJSON{Kind: c.Kind, Namespace: c.Namespace, Name: c.Name}.title()
		if c.ResourceVersion != "" {
			line += "  version " + c.ResourceVersion
		}
		if c.Manager != "" {
			line += "  by " + c.Manager
		}
		b.WriteString(line + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func answerTitle(p paint, a *explain.Answer) string {
	title := map[string]string{"forward": p.green("FORWARDED"), "drop": p.red("DROPPED"), "reject": p.red("REJECTED")}[a.Verdict]
	if at, _ := deniedAt(a); at != "" {
		title = p.red("DENIED") + "  at " + at
	}
	if a.Reason != "none" {
		title += "  " + a.Reason
	}
	if a.Evidence != "" {
		title += "  " + p.faint("("+a.Evidence+")")
	}
	return title
}

// deniedAt returns where policies stopped it, and what they said; nowhere if they didn't.
func deniedAt(a *explain.Answer) (at string, verdict explain.PolicyVerdict) {
	switch {
	case a.Verdict == "forward":
		return "", verdict
	case a.Policy.Egress.Verdict == "deny":
		return a.Policy.Egress.Pod + " egress", a.Policy.Egress
	case a.Policy.Ingress.Verdict == "deny":
		return a.Policy.Ingress.Pod + " ingress", a.Policy.Ingress
	}
	return "", verdict
}

// policyMarks are what stands before a policy, by what it said.
var policyMarks = map[string]string{"allow": "✓", "deny": "✗", "none": "✗", "closed": "✗", "pass": "↓", "unasked": "·"}

// writePolicies writes a line for each policy that selects the pod.
func writePolicies(b *strings.Builder, p paint, v explain.PolicyVerdict) {
	width := 0
	for _, asked := range v.Policies {
		width = max(width, utf8.RuneCountInString(shortPolicy(asked.Policy)))
	}
	for _, asked := range v.Policies {
		line := fmt.Sprintf("  %s %-*s  %s", policyMarks[asked.Verdict], width, shortPolicy(asked.Policy), asked.Text)
		switch {
		case asked.Nearest:
			line += "     " + p.bold("← nearest miss")
		case asked.Verdict == "unasked":
			line = p.faint(line)
		}
		b.WriteString(line + "\n")
	}
}

// shortPolicy leaves out what goes without saying: that a policy with a namespace is a NetworkPolicy.
func shortPolicy(name string) string { return strings.TrimPrefix(name, "NetworkPolicy ") }
