// SPDX-License-Identifier: Apache-2.0

package main

var policyPage = behaviourPage{
	title: "Policy", mark: "Policy row",
	intro: "What deltaplane does of NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), behaviour by " +
		"behaviour, and the test that shows it. The sentences stand above the tests; run one with `go test -run NAME ./FOLDER`, as root where it needs the " +
		"kernel. What is done otherwise, and what cannot be done, is in [the limits](../design/limits.md).",
	behaviours: []behaviour{
		{1, "NetworkPolicy, ingress and egress"},
		{2, "Blocks of addresses"},
		{3, "Replies, and connections that policy changes"},
		{4, "What is always allowed"},
		{5, "ClusterNetworkPolicy and its tiers"},
		{6, "Pods of the host's network, and nodes"},
		{7, "From the first packet"},
		{8, "What a change costs"},
		{9, "Limits, and what is refused"},
		{10, "Ranges of ports"},
		{11, "Drops and verdicts that explain themselves"},
	},
}
