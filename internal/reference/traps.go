// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
)

// trap is a mistake that data planes make again and again. One without a test says why there is none.
type trap struct {
	title string
	limit string
}

// traps by number, from 1.
var traps = []trap{
	{"partial, complete and absent checksums; UDP's zero", ""},
	{"an ICMP error has three checksums and a packet within", ""},
	{"the packet within an ICMP error may be cut to 8 bytes of transport header", ""},
	{"answers made by the data plane: whose address, which checksum, never to errors, at a bounded rate", ""},
	{"IPv6 extension headers", ""},
	{"IPv4 options", ""},
	{"packet pointers after a packet has changed", ""},
	{"encapsulation of segmented packets", ""},
	{"later fragments have no ports, and may come first", ""},
	{"route lookups that take a segmented packet for an oversized one", ""},
	{"too big for the tunnel: tell the client the inner size", ""},
	{"a SYN from a port used again, and a SYN sent again", ""},
	{"half-open connections, FIN from both sides, forged resets", ""},
	{"idle connections live for days; packets of no connection", ""},
	{"a full table forgets the wrong entries", ""},
	{"a fresh entry of an LRU map is the first to go", ""},
	{"values that kernel and user space both write", ""},
	{"a sweep with the wrong clock deletes what lives", ""},
	{"two Services, one backend, one client port", ""},
	{"ports for masquerading that are someone else's", ""},
	{"hairpin", ""},
	{"connected UDP sockets keep a dead backend", ""},
	{"a Service's name shown for a sender that is not its backend", ""},
	{"getpeername; sockets of the kernel itself", "no test has a socket of the kernel itself (NFS, SMB); old kernels overwrite the address that its owner keeps"},
	{"the error that a refused client sees", ""},
	{"IPv4 in IPv6 sockets, multipath TCP", ""},
	{"cgroup versions, nesting, other programs on the same cgroup", ""},
	{"the node's own network namespace is everyone's who uses the host's network", ""},
	{"clients that have no sockets of this kernel", ""},
	{"redirecting past the stack", "only answers that pass through a client's first node, and what XDP forwards, are: neither is for a pod, whose policies could be passed by; held fragments re-enter where they came from"},
	{"XDP on the peer, headroom, several buffers", ""},
	{"rp_filter and several uplinks", ""},
	{"interface indexes, VLAN tags, marks of others", "no program reads or writes marks; there are no programs for netkit devices"},
	{"exchanging programs one by one", ""},
	{"a pinned map of another size or layout", ""},
	{"a pod that starts before its program is attached", ""},
	{"tunnel packets of others", ""},
	{"the verifier of another kernel", "tested on 6.1, 6.12 and 6.18; written for 5.10 and newer, not tried there"},
	{"traffic policy Local without a local backend", ""},
	{"source ranges must see the true source", ""},
	{"addresses and ports that change hands", ""},
	{"an endpoint in several slices, slices without a Service, addresses used again at once", ""},
	{"a port name that means different numbers on different pods", ""},
	{"network policy's own traps", ""},
	{"the way to the API server is a Service itself", ""},
	{"affinity to a backend that ends", ""},
}

func trapsPage(top string) (string, error) {
	all, err := shownBy(top)
	if err != nil {
		return "", err
	}
	if err := checkMarks(all, "Trap", func(n int) bool { return n >= 1 && n <= len(traps) }); err != nil {
		return "", err
	}
	p := newPage("Traps", "Mistakes that data planes make again and again: each with the test that would show it, or the reason why it can't happen here.")
	var rows [][]string
	for i, t := range traps {
		list := all["Trap "+strconv.Itoa(i+1)]
		if len(list) == 0 && t.limit == "" {
			return "", fmt.Errorf("no test shows trap %d, %q, and no reason says why: put \"Trap %d: ...\" above one", i+1, t.title, i+1)
		}
		if t.limit != "" {
			rows = append(rows, []string{strconv.Itoa(i + 1), t.title, "limit: " + t.limit, ""})
		}
		for _, s := range list {
			rows = append(rows, []string{strconv.Itoa(i + 1), t.title, s.says, s.link()})
		}
	}
	p.table([]string{"number", "trap", "how it is handled", "shown by"}, rows)
	return p.String(), nil
}
