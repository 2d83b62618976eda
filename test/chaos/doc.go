// SPDX-License-Identifier: Apache-2.0

// Package chaos has the tests that break a whole cluster as Jepsen does: three real servers of the bus, two watchers, two
// compilers and a programmer on each of three nodes, all real processes on machines of their own, with real maps and real
// traffic. Faults are real, too: signals, frames that are lost at the bridge, full disks, streams that are gone.
//
// What decides is counted from outside: connections that failed, connections that should have, entries written to
// kernels' maps, packets sent through what changed meanwhile, what people are told and when. `make chaos` tries
// everything and prints a table; `make test` a part of it.
package chaos
