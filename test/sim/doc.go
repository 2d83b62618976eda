// SPDX-License-Identifier: Apache-2.0

// Package sim runs whole clusters in one process and in virtual time, in the spirit of TigerBeetle's VOPR and
// FoundationDB's simulation: the real cores of watchers, compilers and programmers, on a simulated API server, bus and
// maps that fail in every way that docs/design/simulation.md lists, all drawn from one seed.
//
// It promises that a seed is a history: the same seed gives the same trace, so what one run finds, every run shows. A
// failing seed prints the command that replays it; with -v that prints every event.
//
// The one thing to know before changing it: nothing here may depend on the clock of the machine, on goroutines or on
// the order of a Go map.
package sim
