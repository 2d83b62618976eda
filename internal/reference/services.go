// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
)

// behaviour is one thing that users of Services rely on. Its number is what tests name it by.
type behaviour struct {
	number int
	title  string
}

var behaviours = []behaviour{
	{1, "ClusterIP from pods and node processes, by socket and by packet"},
	{2, "UDP: connected and unconnected clients, moved when their backend goes"},
	{3, "TCP to a vanished backend"},
	{4, "New connections and terminating backends"},
	{5, "Services without backends"},
	{6, "Wrong ports and unallocated addresses"},
	{7, "NodePort"},
	{8, "External addresses, load balancers, host ports and source ranges"},
	{9, "Traffic policy Local and health checks"},
	{10, "Traffic distribution and topology hints"},
	{11, "Session affinity"},
	{12, "What endpoints a Service has"},
	{13, "Hairpin: a pod that dials its own Service"},
	{16, "Two addresses, one backend, one client port"},
	{18, "SCTP"},
	{19, "Fragments"},
	{20, "ICMP errors"},
	{21, "Connection tracking"},
	{22, "Dual stack and IPv6"},
	{23, "Scale and limits"},
	{24, "Restart, upgrade and crash"},
	{26, "What is found without configuration"},
}

func services(top string) (string, error) {
	all, err := shownBy(top)
	if err != nil {
		return "", err
	}
	titles := map[int]string{}
	for _, b := range behaviours {
		titles[b.number] = b.title
	}
	if err := checkMarks(all, "Row", func(n int) bool { return titles[n] != "" }); err != nil {
		return "", err
	}
	p := newPage("Services", "What deltaplane does of what kube-proxy does, behaviour by behaviour, and the test that shows it. The sentences stand above "+
		"the tests; run one with `go test -run NAME ./FOLDER`, as root where it needs the kernel. Nothing of upstream's `[sig-network]` Services, "+
		"Conntrack, HostPort and Traffic Distribution behaviour is left out; what is done otherwise, and what cannot be done, is in [the limits](../design/limits.md).")
	for _, b := range behaviours {
		list := all["Row "+strconv.Itoa(b.number)]
		if len(list) == 0 {
			return "", fmt.Errorf("no test shows behaviour %d, %q: put \"Row %d: ...\" above one", b.number, b.title, b.number)
		}
		p.section(fmt.Sprintf("%d. %s", b.number, b.title))
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.says, s.link()})
		}
		p.table([]string{"what it does", "shown by"}, rows)
	}
	return p.String(), nil
}
