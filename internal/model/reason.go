// SPDX-License-Identifier: Apache-2.0

package model

import "fmt"

// DropReason says why a packet or a connect went no further. The numbers are part of the kernel ABI and of
// metrics: bpf/include/reasons.h is generated from this file, and numbers are never reused.
type DropReason uint8

// The reasons, each with the situation that leads to it.
const (
	// ReasonNone is no drop.
	ReasonNone DropReason = 0
	// ReasonNoBackend is a frontend whose backend set is empty: refused at once.
	ReasonNoBackend DropReason = 1
	// ReasonMalformed is a packet to a frontend whose headers are cut short or contradict themselves.
	ReasonMalformed DropReason = 2
	// ReasonStaleTables is a frontend, slot or backend that points at a missing row: never expected, since changes are applied in phases.
	ReasonStaleTables DropReason = 3
	// ReasonFlowsFull is a new flow that the conntrack table had no room for.
	ReasonFlowsFull DropReason = 4
	// ReasonRewrite is a packet whose headers the kernel refused to rewrite.
	ReasonRewrite DropReason = 5
	// ReasonUnsupported is a packet to a frontend of a kind that is not translated per packet yet: a fragment, or an extension header.
	ReasonUnsupported DropReason = 6
)

// DropReasons lists all reasons but ReasonNone, with the word that metrics, events and the C enum use.
var DropReasons = []struct {
	Reason DropReason
	Name   string
	Text   string
}{
	{ReasonNoBackend, "no_backend", "the Service has no backend that takes new connections; the client is refused at once"},
	{ReasonMalformed, "malformed", "the packet's headers are cut short or contradict themselves"},
	{ReasonStaleTables, "stale_tables", "a table entry points at a missing one; report this as a bug"},
	{ReasonFlowsFull, "flows_full", "the connection table had no room for a new flow"},
	{ReasonRewrite, "rewrite", "the kernel refused to rewrite the packet's headers"},
	{ReasonUnsupported, "unsupported", "a fragment or extension header on a path that does not translate them yet"},
}

// String returns the reason's word.
func (r DropReason) String() string {
	if r == ReasonNone {
		return "none"
	}
	for _, d := range DropReasons {
		if d.Reason == r {
			return d.Name
		}
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}
