// SPDX-License-Identifier: Apache-2.0

package main

var servicesPage = behaviourPage{
	title: "Services", mark: "Row",
	intro: "What deltaplane does of what kube-proxy does, behaviour by behaviour, and the test that shows it. The sentences stand above " +
		"the tests; run one with `go test -run NAME ./FOLDER`, as root where it needs the kernel. Nothing of upstream's `[sig-network]` Services, " +
		"Conntrack, HostPort and Traffic Distribution behaviour is left out; what is done otherwise, and what cannot be done, is in [the limits](../design/limits.md).",
	behaviours: []behaviour{
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
		{14, "Outside clients' addresses kept on the way to another node"},
		{15, "Answers straight from the backend's node (DSR)"},
		{16, "Two addresses, one backend, one client port"},
		{17, "Maglev and weights for clients from outside"},
		{18, "SCTP"},
		{19, "Fragments"},
		{20, "ICMP errors"},
		{21, "Connection tracking"},
		{22, "Dual stack and IPv6"},
		{23, "Scale and limits"},
		{24, "Restart, upgrade and crash"},
		{26, "What is found without configuration"},
	},
}
