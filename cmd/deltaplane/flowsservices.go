// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/schemas"
)

// servicesJSON is what -o json prints of --services. Scripts read it.
type servicesJSON struct {
	Services []serviceCountJSON `json:"services"`
	// Uncounted is how many drops and flows nodes had no room to count for their Service.
	Uncounted uint64 `json:"uncounted"`
}

type serviceCountJSON struct {
	Node       string `json:"node"`
	Service    string `json:"service"`
	Reason     string `json:"reason"`     // of drops; empty of flows
	Forwarding string `json:"forwarding"` // of flows that began: "local", "tunnel", "dsr" or "snat"; empty of drops
	Count      uint64 `json:"count"`
}

func newServicesJSON() *servicesJSON { return &servicesJSON{Services: []serviceCountJSON{}} }

func (l *servicesJSON) add(node string, reply *schemas.FlowsReply) {
	l.Uncounted += reply.GetUncounted()
	for _, c := range reply.GetServices() {
		l.Services = append(l.Services, serviceCountJSON{node, c.GetService(), c.GetReason(), c.GetForwarding(), c.GetCount()})
	}
}

// sort puts the counts of a Service together, and of each the flows in front.
func (l *servicesJSON) sort() {
	slices.SortFunc(l.Services, func(a, b serviceCountJSON) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Forwarding, b.Forwarding))
	})
}

// write prints a table for people: a line for each Service on each node.
func (l *servicesJSON) write(w io.Writer) error {
	t := newTable("SERVICE", "NODE", "FLOWS BEGUN", "DROPPED")
	for i := 0; i < len(l.Services); {
		first := l.Services[i]
		var flows, drops []string
		for ; i < len(l.Services) && l.Services[i].Service == first.Service && l.Services[i].Node == first.Node; i++ {
			c := l.Services[i]
			if c.Reason != "" {
				drops = append(drops, grouped(c.Count)+" "+c.Reason)
			} else {
				flows = append(flows, grouped(c.Count)+" "+c.Forwarding)
			}
		}
		t.row(first.Service, first.Node, orDash(strings.Join(flows, ", ")), orDash(strings.Join(drops, ", ")))
	}
	text := t.String()
	if l.Uncounted > 0 {
		text += fmt.Sprintf("and %s more drops and flows for whose Service there was no room (--max-service-counts of the programmer)\n", grouped(l.Uncounted))
	}
	_, err := io.WriteString(w, text)
	return err
}
