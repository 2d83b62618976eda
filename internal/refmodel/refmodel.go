// SPDX-License-Identifier: Apache-2.0

// Package refmodel is the oracle: it decides what happens to a connect, a datagram or a packet on one node, from
// the node's typed tables and addresses and nothing else, one rule after another, each rule citing where it comes
// from. The BPF programs must agree with it on any tables and any packets (test/kernel), and explain shows its
// answers to people.
//
// It promises to be pure, slow and obvious. Where the kernel is free to choose, such as which backend, the model
// says what may be chosen and takes the kernel's choice as an input to check. When the two disagree one of them is
// wrong: find out which by the cited source, never by making the model follow the program.
package refmodel

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Verdict is what becomes of a connect or a packet.
type Verdict uint8

// The verdicts. Rejected means that the client is told so: ECONNREFUSED, TCP RST or ICMP port unreachable. A socket
// whose connect is dropped is told ETIMEDOUT, as if it had waited.
const (
	Forward Verdict = iota + 1
	Drop
	Reject
)

// String returns the word that explain prints.
func (v Verdict) String() string {
	switch v {
	case Forward:
		return "forward"
	case Drop:
		return "drop"
	case Reject:
		return "reject"
	}
	return "undecided"
}

// AddrPort returns where b serves.
func AddrPort(b model.Backend) netip.AddrPort { return netip.AddrPortFrom(b.Addr, b.Port) }
