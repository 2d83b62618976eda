// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// A village has pods x/a on node-1, and x/b and w/a on node-2, Services of w/a and x/a, whose port 8080 leads to 80, and
// a pod on each node's own network.
var village = townNodes + namespace("x", "ns: x") + namespace("w", "ns: w") + namespace("host", "ns: host") +
	townPod("x", "a", "node-1") + townPod("x", "b", "node-2") + townPod("w", "a", "node-2") +
	hostPod("front", "node-1") + hostPod("back", "node-2") +
	villageService("w", "server", `type: NodePort, clusterIPs: [10.96.0.80, "fd00:10:96::80"]`, ", nodePort: 30080") +
	villageService("x", "self", "type: ClusterIP", "")

func hostPod(name, node string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: host, labels: {pod: a}}, spec: {nodeName: %s, hostNetwork: true, containers: [{name: main, ports: [{containerPort: 9080}, {containerPort: 9080, protocol: UDP}]}]}}\n---\n", name, node)
}

func villageService(namespace, name, kind, more string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s}, spec: {%s, ipFamilyPolicy: RequireDualStack, selector: {pod: a}, ports: [{name: t, port: 8080, targetPort: 80%[4]s}, {name: u, port: 8080, targetPort: 80, protocol: UDP%[4]s}]}}\n---\n",
		name, namespace, kind, more)
}

// Places of a village. A raw one's packets are all that is seen of it.
var (
	theA      = []string{"x/a", rawPod + "x/a"}
	theB      = []string{"x/b", rawPod + "x/b"}
	nodeOne   = []string{"node/node-1", "host/front"}
	nodeTwo   = []string{"node/node-2", "host/back"}
	theWorld  = []string{"outside"}
	everyNode = "node/node-1:30080 node/node-2:30080"
)

// audience is who dials what, and what comes of it.
type audience struct {
	places []string
	ways   []way
}

func reaches(places []string, reached, to string) audience {
	return audience{places, []way{{to: to, outcome: agent.OK, reached: reached}}}
}

func misses(places []string, to string) audience {
	return audience{places, []way{{to: to, outcome: agent.Timeout}}}
}

var villageSituations = []struct {
	name, objects string
	audiences     []audience
}{
	{
		"the backend lets one client in",
		policy("w", "in", everyPod+", ingress: [{from: [{podSelector: {matchLabels: {pod: a}}, namespaceSelector: {matchLabels: {ns: x}}}]}]"),
		[]audience{
			reaches(theA, "w/a", "w/server:8080 w/a:80 "+everyNode), misses(theB, "w/server:8080 w/a:80 "+everyNode),
			reaches(nodeTwo, "w/a", "w/server:8080 w/a:80 node/node-2:30080"), misses(nodeOne, "w/server:8080 w/a:80 node/node-1:30080"),
			misses(nodeTwo, "node/node-1:30080"), // comes back from that node's address
			{theWorld, []way{
				{to: "node/node-1:30080", outcome: agent.Timeout}, {via: "node/node-2", to: "node/node-2:30080", outcome: agent.Timeout},
			}},
		},
	},
	{
		"the backend lets the world in, but no other node",
		policy("w", "in", everyPod+`, ingress: [{from: [{ipBlock: {cidr: 172.30.255.1/32}}, {ipBlock: {cidr: "fd00:172:30::ffff:1/128"}}]}]`),
		[]audience{
			misses(theA, "w/server:8080"), misses(theB, "w/server:8080"),
			{theWorld, []way{{via: "node/node-2", to: "node/node-2:30080", outcome: agent.OK, reached: "w/a"}}},
		},
	},
	{
		"the backend's port counts, not the Service's",
		policy("w", "in", everyPod+", ingress: [{ports: [{port: 8080}, {port: 8080, protocol: UDP}]}]"),
		[]audience{misses(theA, "w/server:8080"), misses(theB, "w/server:8080 "+everyNode)},
	},
	{
		"and that is open",
		policy("w", "in", everyPod+", ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]") +
			policy("x", "out", podA+", "+outward+", egress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]"),
		[]audience{
			reaches(theA, "w/a", "w/server:8080 node/node-1:30080"), reaches(theB, "w/a", "w/server:8080 "+everyNode),
			misses(theA, "node/node-2:30080"), // leaves for that node's address and port
		},
	},
	{
		"the client's policy matches backends",
		policy("x", "out", everyPod+", "+outward+", egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]"),
		[]audience{
			reaches(theA, "w/a", "w/server:8080 node/node-1:30080"), reaches(theB, "w/a", "w/server:8080 node/node-2:30080"),
			misses(theA, "node/node-2:30080"), misses(theB, "node/node-1:30080"), // leave for those nodes' addresses
			misses(theB, "x/self:8080 x/a:80"), reaches(nodeOne, "w/a", "w/server:8080"),
		},
	},
	{
		"the client's policy matches no Service's address",
		policy("x", "out", everyPod+", "+outward+`, egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: "fd00:10:96::/112"}}]}]`) +
			tier("services", "Admin", 10, `subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {}}}, egress: [{action: Accept, to: [{networks: [10.96.0.0/16, "fd00:10:96::/112"]}]}]`),
		[]audience{misses(theA, "w/server:8080 "+everyNode), misses(theB, "w/server:8080")},
	},
	{
		"a denied network of Services denies no backend",
		tier("services", "Admin", 10, inX+`, egress: [{action: Deny, to: [{networks: [10.96.0.0/16, "fd00:10:96::/112"]}]}]`),
		[]audience{reaches(theA, "w/a", "w/server:8080"), reaches(theB, "w/a", "w/server:8080")},
	},
	{
		"a closed pod reaches itself, by its Service too",
		policy("x", "deny", everyPod+", "+bothWays),
		[]audience{
			reaches(theA, "x/a", "x/self:8080 x/a:80"), misses(theB, "x/self:8080 x/a:80 w/server:8080"),
			reaches(nodeOne, "x/a", "x/self:8080 x/a:80"), misses(nodeTwo, "x/self:8080 x/a:80"), misses(theA, "host/front:9080 host/back:9080"),
		},
	},
	{
		"pods of the host's network are not selected",
		policy("host", "deny", everyPod+", "+bothWays) + tier("host", "Admin", 10, "subject: {namespaces: {matchLabels: {ns: host}}}, ingress: [{action: Deny, from: "+everyNS+"}], egress: [{action: Deny, to: "+everyNS+"}]"),
		[]audience{
			reaches(nodeOne, "w/a", "w/server:8080 w/a:80"), reaches(theA, "host/front", "host/front:9080"), reaches(theA, "host/back", "host/back:9080"),
			reaches(nodeTwo, "host/front", "host/front:9080"),
		},
	},
	{
		"pods of the host's network are no peers",
		policy("w", "in", everyPod+", ingress: [{from: [{namespaceSelector: {}}]}]") + policy("x", "out", everyPod+", "+outward+", egress: [{to: [{namespaceSelector: {}}]}]"),
		[]audience{
			misses(nodeOne, "w/server:8080 w/a:80"), reaches(nodeTwo, "w/a", "w/server:8080 w/a:80"),
			misses(theA, "host/front:9080 host/back:9080"), reaches(theA, "w/a", "w/server:8080"),
		},
	},
	{
		"blocks match pods of the host's network by their nodes",
		policy("w", "in", everyPod+`, ingress: [{from: [{ipBlock: {cidr: IP4[host/front]/32}}, {ipBlock: {cidr: "IP6[host/front]/128"}}]}]`) +
			policy("x", "out", everyPod+", "+outward+`, egress: [{to: [{ipBlock: {cidr: IP4[host/back]/32}}, {ipBlock: {cidr: "IP6[host/back]/128"}}]}]`),
		[]audience{
			reaches(nodeOne, "w/a", "w/server:8080 w/a:80"), misses(theA, "host/front:9080 w/server:8080"), reaches(theA, "host/back", "host/back:9080"),
		},
	},
	{
		"nodes by their labels: accepted at a port, passed, denied",
		tier("nodes", "Admin", 10, inX+", egress: [{action: Accept, to: [{nodes: {matchLabels: {rack: back}}}], protocols: [{tcp: {destinationPort: {number: 9080}}}]}, "+
			"{action: Pass, to: [{nodes: {matchLabels: {rack: back}}}], protocols: [{udp: {destinationPort: {number: 9080}}}]}, {action: Deny, to: [{nodes: {matchExpressions: [{key: rack, operator: Exists}]}}]}]"),
		[]audience{reaches(theA, "host/back", "host/back:9080"), misses(theA, "host/front:9080"), reaches(theA, "w/a", "w/server:8080 node/node-1:30080")},
	},
	{
		"what is passed to nodes a NetworkPolicy denies",
		tier("nodes", "Admin", 10, inX+", egress: [{action: Accept, to: [{nodes: {matchLabels: {rack: back}}}], protocols: [{tcp: {destinationPort: {number: 9080}}}]}]") +
			policy("x", "out", everyPod+", "+outward),
		[]audience{
			{theA, []way{{to: "host/back:9080", proto: "tcp", outcome: agent.OK, reached: "host/back"}, {to: "host/back:9080", proto: "udp", outcome: agent.Timeout}}},
			misses(theA, "host/front:9080"),
		},
	},
	{
		"nodes by their labels, in the baseline",
		tier("nodes", "Baseline", 10, inX+", egress: [{action: Accept, to: [{nodes: {matchLabels: {rack: back}}}], protocols: [{udp: {destinationPort: {number: 9080}}}]}, {action: Deny, to: [{nodes: {}}]}]"),
		[]audience{
			{theB, []way{{to: "host/back:9080", proto: "udp", outcome: agent.OK, reached: "host/back"}, {to: "host/back:9080", proto: "tcp", outcome: agent.Timeout}}},
			misses(theB, "host/front:9080"), reaches(theB, "w/a", "w/server:8080 w/a:80"),
		},
	},
	{"without a policy", "", []audience{reaches(theA, "x/a", "x/self:8080"), reaches(append(theA, theB...), "w/a", "w/server:8080 "+everyNode), reaches(theWorld, "w/a", "node/node-1:30080")}},
}

// Policies at a Service's client and at its backend hold for whoever dials it, by its sockets or by packets alone, from
// a pod, a node or outside; both engines explain the same.
//
// Policy row 1: policies see a Service's backend and its port, whether the Service is dialled or the pod.
// Policy row 2: a block or network that has a Service's address matches no connection through the Service.
// Policy row 4: the own node reaches a pod whatever policies say, also through a Service; a pod reaches itself through its own.
// Policy row 5: peers of nodes are matched by the nodes' labels, in both tiers, and their rules may pass.
// Policy row 6: pods of the host's network are neither selected nor peers by their labels; blocks match them by their nodes'
// addresses.
// Trap 44: rules see backends, not Services.
func TestPoliciesAndServices(t *testing.T) {
	t.Parallel()
	s := newScene(t, "village", village)
	for _, one := range villageSituations {
		t.Run(one.name, func(t *testing.T) {
			s.become(t, one.objects)
			for _, a := range one.audiences {
				s.expectAtOnce(t, a.places, a.ways...)
			}
		})
	}
}
