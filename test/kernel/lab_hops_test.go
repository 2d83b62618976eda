// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/model"
)

// crossing is one connection over the border.
type crossing struct {
	borderService
	proto  string
	target netip.AddrPort
	port   uint16 // the client's
}

// The ports of the table's clients, and how many each may have in turn: where another test's connection was given that port
// at random, which it meets at the backend or at a masquerade, it is exchanged.
const crossingPorts, portsOfCrossing = 20000, 5

// Row 14: a client's address, its TTL and its checksums on every link between client and pod, and of the answer, in each
// way to forward, on this and another node, under both policies, for all kinds of addresses, families and protocols.
// Row 15: straight answers leave the backend's node from the Service's address and port, also where the pod's is another.
func TestHops(t *testing.T) {
	var crossings []crossing
	for _, service := range borderServices() {
		for _, target := range service.targets() {
			for _, proto := range []string{"tcp", "udp"} {
				crossings = append(crossings, crossing{service, proto, target, crossingPorts + uint16(len(crossings))})
			}
		}
	}
	s := borderScene(t)
	x := s.tap(t, lab.Outside, "node/node-1", "node/node-2", "shop/near", "shop/far")
	s.cross(t, crossings)
	passed := x.passages(t, func(port uint16) bool {
		return port >= crossingPorts && port < crossingPorts+portsOfCrossing*uint16(len(crossings))
	})
	tables := map[string]string{} // by mode, policy and place
	for _, c := range crossings {
		cell := c.cell()
		table := s.table(t, c, passed[c.port])
		if known, ok := tables[cell]; ok && known != table {
			t.Errorf("%s over %s to %s is carried otherwise than others of its kind: %s", cell, c.proto, c.target, cmp.Diff(known, table))
		}
		tables[cell] = table
	}
	fresh(t, "../../docs/reference/hops.md", hopsPage(tables))
}

// cross dials all at once, and compares who answered with whom the policy has there.
func (s *scene) cross(t *testing.T, crossings []crossing) {
	t.Helper()
	var tasks sync.WaitGroup
	limit := make(chan struct{}, 32)
	for i := range crossings {
		tasks.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			for range portsOfCrossing {
				if s.crossOnce(t, crossings[i]) {
					return
				}
				crossings[i].port += uint16(len(crossings))
			}
			t.Errorf("%s to %s: the backend sees none of %d ports", crossings[i].cell(), crossings[i].target, portsOfCrossing)
		})
	}
	tasks.Wait()
}

// crossOnce says if the client kept its port, or nobody answered.
func (s *scene) crossOnce(t *testing.T, c crossing) bool {
	t.Helper()
	want, timeout := agent.OK, patience
	if c.place == "far" && c.policy == "Local" {
		want, timeout = agent.Timeout, 100*time.Millisecond
	}
	report, err := s.Probe(t.Context(), lab.ProbeRequest{From: lab.Outside, To: c.target.String(), Protocol: c.proto, SourcePort: c.port, Timeout: timeout})
	if err != nil {
		t.Error(err)
		return true
	}
	r := report.Results[0]
	kept := r.ClientAddress == s.addressOf(lab.Outside, c.target.Addr()).String()
	switch {
	case r.Outcome != want:
		t.Errorf("%s to %s: got %+v, want %s", c.cell(), c.target, r, want)
	case want == agent.OK && r.Reached != "shop/"+c.place:
		t.Errorf("%s to %s: got %+v", c.cell(), c.target, r)
	case want == agent.OK && kept == (c.mode == "snat" && c.place == "far"):
		t.Errorf("%s to %s: the backend sees %s", c.cell(), c.target, r.ClientAddress)
	}
	return r.Outcome != agent.OK || r.ClientPort == c.port
}

// table is what passed of one connection, in words that are the same for families, protocols and kinds of address.
func (s *scene) table(t *testing.T, c crossing, passages []crossed) string {
	t.Helper()
	words := names{s.addressOf(lab.Outside, c.target.Addr()): "client"}
	for _, p := range s.Cluster().Pods {
		for _, a := range manifest.PodAddrs(p) {
			words[a] = "pod"
		}
	}
	for _, n := range s.Cluster().Nodes { // after those of pods on their networks
		for _, a := range manifest.NodeAddrs(n) {
			words[a] = n.Name
		}
	}
	ports := map[uint16]string{c.port: "c", c.target.Port(): "s", 8080: "t", tunnelPort: fmt.Sprint(tunnelPort)}
	name := func(a netip.AddrPort) string {
		if a == c.target {
			return "service:s"
		}
		return words.of(a, ports)
	}
	var lines []string
	for _, there := range []bool{true, false} { // to the backend, and back
		for _, p := range ordered(passages, there) {
			for _, h := range p.hops {
				if there != (h.from.Port() == c.port) {
					continue
				}
				lines = append(lines, fmt.Sprintf("| %s | %s | %s → %s | %d |", linkEnd(p.at, h.out), wrapWords(h.wrapped, words), name(h.from), name(h.to), h.ttl))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// ordered are the passages in the order of a request, or of an answer.
func ordered(passages []crossed, there bool) []crossed {
	if there {
		return passages
	}
	back := slices.Clone(passages)
	slices.Reverse(back)
	return back
}

func linkEnd(at string, out bool) string {
	at = strings.TrimPrefix(at, "node/")
	switch {
	case at == lab.Outside:
		at = "client"
	case strings.HasPrefix(at, "shop/"):
		at = "pod"
	}
	if out {
		return at + ", out"
	}
	return at + ", in"
}

func wrapWords(w *wrapping, words names) string {
	if w == nil {
		return ""
	}
	what := "to a backend"
	if w.backend == 0 {
		what = "an answer"
	}
	if sender := words[w.from]; model.NodeIDOf(sender) != w.sender {
		what = fmt.Sprintf("of node number %d", w.sender)
	}
	return fmt.Sprintf("%s → %s, TTL %d, %s", words[w.from], words[w.to], w.ttl, what)
}

// hopsPage puts cells with one table under one heading.
func hopsPage(tables map[string]string) string {
	type when struct{ table, policy string }
	ways := map[when][]string{}
	for _, b := range borderServices() {
		w := when{tables[b.cell()], b.policy}
		ways[w] = append(ways[w], b.mode)
	}
	var page strings.Builder
	page.WriteString(hopsHead)
	for _, b := range borderServices() {
		table := tables[b.cell()]
		var under []string
		for _, policy := range []string{"Cluster", "Local"} {
			if w := (when{table, policy}); ways[w] != nil {
				under = append(under, fmt.Sprintf("`%s` (%s)", policy, strings.Join(ways[w], ", ")))
				delete(ways, w)
			}
		}
		if under != nil {
			where := map[string]string{"near": "the first node", "far": "another node"}[b.place]
			fmt.Fprintf(&page, "\n## Backend on %s, externalTrafficPolicy %s\n\n| link | wrapped | packet | TTL |\n|---|---|---|---|\n%s\n",
				where, strings.Join(under, ", "), table)
		}
	}
	return page.String()
}

const hopsHead = `<!-- Written by a test from captured frames: DELTAPLANE_UPDATE=1 go test -run TestHops ./test/kernel -->

# What is on the wire

A client outside the cluster, by way of node-1, asks a Service: what passes the links on the way, as captured in the lab.
Families, protocols (TCP and UDP) and kinds of address (NodePort, load balancer, external address) share each table: the
test compares them. "service" is the address that was dialled, ` + "`c`, `s` and `t`" + ` are the ports of the client, of the Service and of
the pod. All checksums were right, those of wrapping and wrapped packets too.
`

// fresh fails unless a page is as it would be written now, or writes it if DELTAPLANE_UPDATE is set.
func fresh(t *testing.T, path, page string) {
	t.Helper()
	if os.Getenv("DELTAPLANE_UPDATE") != "" {
		check(t, os.WriteFile(path, []byte(page), 0o644))
	}
	was, err := os.ReadFile(path)
	check(t, err)
	if diff := cmp.Diff(string(was), page); diff != "" {
		t.Errorf("%s is not what was captured (-page +captured):\n%s", filepath.Base(path), diff)
	}
}
