// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// condition is how fit an endpoint is, worst first, so that of several slices' words the highest counts.
type condition uint8

const (
	finishing condition = iota // terminates and no longer serves: keeps the connections it has
	fallback                   // terminates and still serves: takes new connections if none is ready
	ready
)

// candidate is an endpoint that may become a backend.
type candidate struct {
	at        netip.AddrPort
	condition condition
	node      string
	number    model.NodeID // of node
	weight    uint16       // 1 to model.MaxWeight
	hints     *state.Hints
}

// candidates returns the candidates of one ServicePort in one family, sorted, each address and port once.
func candidates(of iter.Seq[*state.Slice], port state.Port, family model.Family) []candidate {
	most := 0
	for slice := range of {
		most += slice.Len()
	}
	all := make([]candidate, 0, most)
	for slice := range of {
		if slice.Family != family {
			continue
		}
		numbers := targets(slice, port)
		if len(numbers) == 0 {
			continue
		}
		for endpoint := range slice.Endpoints() {
			condition, usable := conditionOf(endpoint, port.Protocol)
			if !usable {
				continue
			}
			for _, number := range numbers {
				all = append(all, candidate{
					netip.AddrPortFrom(endpoint.Addr, number), condition, endpoint.Node, endpoint.Number, slice.Weight, endpoint.Hints,
				})
			}
		}
	}
	return best(all)
}

// candidatesOf returns how many backends the slices of a Service come to at most, without making them.
func candidatesOf(snap *state.Snapshot, svc *state.Service) (n int) {
	for slice := range snap.SlicesOf(svc.Name) {
		for _, port := range svc.Ports {
			n += slice.Len() * len(targets(slice, port))
		}
	}
	return n
}

// targets returns the numbers that a ServicePort has in one slice: by name and protocol, since the controller
// has resolved target ports, which may differ from slice to slice. Most often it is one.
func targets(slice *state.Slice, port state.Port) []uint16 {
	var numbers []uint16
	for _, p := range slice.Ports {
		if p.Name == port.Name && p.Protocol == port.Protocol && p.Number != 0 && !slices.Contains(numbers, p.Number) {
			numbers = append(numbers, p.Number)
		}
	}
	return numbers
}

// conditionOf judges an endpoint. The EndpointSlice controller has already made the endpoints of a Service with
// publishNotReadyAddresses ready, so that the field isn't looked at here, as kube-proxy doesn't.
//
// An endpoint that terminates and fails its probe keeps its TCP and SCTP connections; UDP has none to keep, and
// its clients should move on (as kube-proxy clears conntrack entries of UDP endpoints that don't serve).
func conditionOf(e state.Endpoint, protocol model.Protocol) (c condition, usable bool) {
	switch {
	case e.Ready:
		return ready, true
	case e.Terminating && e.Serving:
		return fallback, true
	case e.Terminating && protocol != model.UDP:
		return finishing, true
	}
	return 0, false
}

// best sorts candidates and keeps each address and port once, in its best condition. Of slices that agree on that,
// all hints count, the first node by name, and the highest weight.
func best(all []candidate) []candidate {
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(a.at.Compare(b.at), int(b.condition)-int(a.condition), cmp.Compare(a.node, b.node))
	})
	kept := all[:0]
	for _, c := range all {
		last := len(kept) - 1
		switch {
		case last < 0 || kept[last].at != c.at:
			kept = append(kept, c)
		case kept[last].condition == c.condition:
			kept[last].join(c)
		}
	}
	return kept
}

// join adds what another slice says of the same endpoint.
func (c *candidate) join(other candidate) {
	if c.node == "" {
		c.node, c.number = other.node, other.number
	}
	c.weight = max(c.weight, other.weight)
	if c.hints != other.hints {
		c.hints = &state.Hints{Zones: union(c.hints.Zones, other.hints.Zones), Nodes: union(c.hints.Nodes, other.hints.Nodes)}
	}
}

func union(a, b []string) []string {
	if len(b) == 0 || slices.Equal(a, b) {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
