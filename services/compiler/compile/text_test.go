// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
)

// text writes the rows of a layer for people, one a line, by meaning and not by id. A node's layer has parts of sets
// whose roots are in the cluster's.
func text(t, cluster *model.Tables) (lines []string) {
	if t == nil {
		return nil
	}
	w := textOf{t, cluster}
	for _, f := range t.Frontends {
		lines = append(lines, w.frontend(f))
	}
	for _, s := range t.Sets {
		if s.ID == s.Root {
			lines = append(lines, "set "+w.root(s.ID)+words(s.Flags)+affinity(s.Affinity))
		}
	}
	for _, b := range t.Backends {
		use := "kept"
		if _, member := t.Members[model.Member{Set: b.Set, Backend: b.ID}]; member {
			use = "member"
		}
		state := map[model.BackendState]string{model.BackendActive: "active", model.BackendTerminating: "terminating"}[b.State]
		s := w.set(b.Set)
		lines = append(lines, fmt.Sprintf("%s/%s %s %s %s", s.Service, s.Service.Protocol, netip.AddrPortFrom(b.Addr, b.Port), state, use))
	}
	for _, v := range t.Views {
		lines = append(lines, w.view(v))
	}
	for _, r := range t.SourceRanges {
		lines = append(lines, w.root(r.Set)+" takes "+r.Prefix.String())
	}
	for _, e := range t.Endpoints {
		lines = append(lines, fmt.Sprintf("%s is %s", e.Addr, e.Pod))
	}
	for _, n := range t.Networks {
		kind := map[model.NetworkKind]string{model.NetworkPods: "pods", model.NetworkServices: "services"}[n.Kind]
		lines = append(lines, n.Prefix.String()+" is "+kind)
	}
	for _, n := range t.Nodes {
		lines = append(lines, fmt.Sprintf("node %08x at %s", uint32(n.ID), n.Text()))
	}
	for _, h := range t.HealthChecks {
		lines = append(lines, fmt.Sprintf("health of %s/%s on %d", h.Namespace, h.Name, h.Port))
	}
	for _, s := range t.Selves {
		policed := map[bool]string{true: " policed"}[s.Policed]
		lines = append(lines, fmt.Sprintf("self zone %q draining %v%s", s.Zone, s.Draining, policed))
	}
	slices.Sort(lines)
	return lines
}

// places are the zones and nodes of tests.
var places = func() map[model.Place]string {
	names := map[model.Place]string{0: ""}
	for _, name := range []string{"z1", "z2", "z3", "n1", "n2", "n3"} {
		names[model.PlaceOf(name)] = name
	}
	return names
}()

type textOf struct{ t, cluster *model.Tables }

func (w textOf) set(id model.SetID) model.BackendSet {
	if s, found := w.t.Sets[id]; found || w.cluster == nil {
		return s
	}
	return w.cluster.Sets[id]
}

func (w textOf) root(id model.SetID) string {
	s := w.set(id)
	return fmt.Sprintf("%s/%s v%d", s.Service, s.Service.Protocol, s.Family)
}

func (w textOf) frontend(f model.Frontend) string {
	if f.Kind == model.FrontendRefused {
		return f.FrontendKey.String() + " refused"
	}
	line := []string{f.FrontendKey.String(), "->", w.set(f.Set).Service.String(), fmt.Sprint("v", w.set(f.Set).Family)}
	kinds := map[model.FrontendKind]string{
		model.FrontendNodePort: "node-port", model.FrontendExternalIP: "external", model.FrontendLoadBalancer: "load-balancer",
		model.FrontendHostPort: "host-port",
	}
	if kind := kinds[f.Kind]; kind != "" {
		line = append(line, kind)
	}
	for i, word := range []string{"internal-local", "external-local", "ranges"} {
		if f.Flags&(1<<i) != 0 {
			line = append(line, word)
		}
	}
	return strings.Join(line, " ")
}

func (w textOf) view(v model.View) string {
	s := w.t.Sets[v.Target]
	scope := map[model.Scope]string{model.ScopeZone: "zone", model.ScopeNode: "node", model.ScopeLocal: "local"}[v.Scope]
	if v.Scope == model.ScopeZone {
		scope += " " + places[v.Place]
	}
	var members []string
	for m := range w.t.Members {
		if m.Set == v.Target {
			b := w.t.Backends[m.Backend]
			members = append(members, netip.AddrPortFrom(b.Addr, b.Port).String())
		}
	}
	slices.Sort(members)
	return fmt.Sprintf("%s for %s %s%s%s", w.root(v.Set), scope, strings.Join(members, " "), words(s.Flags), affinity(s.Affinity))
}

func words(f model.SetFlags) (text string) {
	if f&model.NodeHints != 0 {
		text += " node-hints"
	}
	if f&model.ZoneHints != 0 {
		text += " zone-hints"
	}
	if f&model.Fallback != 0 {
		text += " fallback"
	}
	return text
}

func affinity(seconds uint32) string {
	if seconds == 0 {
		return ""
	}
	return fmt.Sprintf(" affinity %ds", seconds)
}
