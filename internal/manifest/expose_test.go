// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// serviceYAML makes a Service; spec goes in front of its one port.
func serviceYAML(name, spec, port string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {%sports: [%s]}\n---\n", name, spec, port)
}

func nodePortsOf(t *testing.T, o *Objects, name string) (ports []int32) {
	t.Helper()
	service, ok := find(o.Services, "default", name)
	if !ok {
		t.Fatalf("no Service %s: %v", name, o.Err())
	}
	return append(portsOnNodes(service), service.Spec.HealthCheckNodePort)
}

func TestNodePortsAreGivenWhereAServiceNamesNone(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, "%s", serviceYAML("a", "type: NodePort, ", "{name: x, port: 80}, {name: second, port: 80, protocol: UDP}, {name: z, port: 81, nodePort: 30001}")+
		serviceYAML("b", "type: LoadBalancer, externalTrafficPolicy: Local, ", "{port: 80}")+
		serviceYAML("c", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ", "{name: x, port: 80}, {name: second, port: 81, nodePort: 30002}")+
		serviceYAML("d", "", "{port: 80}")+
		serviceYAML("e", "type: NodePort, externalTrafficPolicy: Local, ", "{name: x, port: 80, nodePort: 31000}, {name: second, port: 80, nodePort: 31000, protocol: SCTP}"))
	seen := map[int32]bool{}
	for _, name := range []string{"a", "b"} {
		for _, port := range nodePortsOf(t, got, name) {
			if port != 0 && (port < 30000 || port > 32767 || seen[port]) {
				t.Errorf("Service %s has port %d twice, or out of the range", name, port)
			}
			seen[port] = true
		}
	}
	a, b := nodePortsOf(t, got, "a"), nodePortsOf(t, got, "b")
	if a[0] == 0 || a[1] == 0 || a[2] != 30001 || a[3] != 0 || b[0] == 0 || b[1] == 0 {
		t.Errorf("a has %v, b has %v; want a's third and no health check, b's both", a, b)
	}
	want := [][]int32{{0, 30002, 0}, {0, 0}, {31000, 31000, 0}}
	if diff := cmp.Diff(want, [][]int32{nodePortsOf(t, got, "c"), nodePortsOf(t, got, "d"), nodePortsOf(t, got, "e")}); diff != "" {
		t.Errorf("c, d and e (-want +got):\n%s", diff)
	}
}

func TestNodePortsStayWhereTheyWere(t *testing.T) {
	t.Parallel()
	local := "type: LoadBalancer, externalTrafficPolicy: Local, "
	first := expand(t, nil, "%s", serviceYAML("a", local, "{port: 80}"))
	alone := nodePortsOf(t, first, "a")
	var many strings.Builder
	many.WriteString(serviceYAML("z", "type: NodePort, ", fmt.Sprintf("{name: x, port: 1, nodePort: %d}", 30000)))
	for i := range 40 {
		many.WriteString(serviceYAML(fmt.Sprintf("s%d", i), "type: NodePort, ", "{port: 80}"))
	}
	for name, got := range map[string]*Objects{
		"again":                         expand(t, first, "%s", serviceYAML("a", local, "{port: 80}")),
		"behind others":                 expand(t, first, "%s", many.String()+serviceYAML("a", local, "{port: 80}")),
		"with a name":                   expand(t, first, "%s", serviceYAML("a", local, "{name: http, port: 80}")),
		"behind others, from the start": expand(t, nil, "%s", many.String()+serviceYAML("a", local, "{port: 80}")),
	} {
		if diff := cmp.Diff(alone, nodePortsOf(t, got, "a")); diff != "" {
			t.Errorf("%s (-first +then):\n%s", name, diff)
		}
	}
	taken := expand(t, first, "%s", serviceYAML("b", "type: NodePort, ", fmt.Sprintf("{port: 1, nodePort: %d}", alone[0]))+serviceYAML("a", local, "{port: 80}"))
	if got := nodePortsOf(t, taken, "a"); got[0] == alone[0] || got[0] == 0 {
		t.Errorf("a has %d, which b asks for", got[0])
	}
	if got := nodePortsOf(t, expand(t, first, "%s", serviceYAML("a", "", "{port: 80}")), "a"); got[0] != 0 || got[1] != 0 {
		t.Errorf("of type ClusterIP it still has %v", got)
	}
}

func TestANodePortThatAnotherServiceAskedForFirstIsRefused(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, "%s", serviceYAML("a", "type: NodePort, ", "{port: 80, nodePort: 30080}")+
		serviceYAML("b", "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080, ", "{port: 80}"))
	if len(got.Services) != 1 || !strings.Contains(fmt.Sprint(got.Err()), "Service default/b: spec.healthCheckNodePort: 30080 is taken by Service default/a") {
		t.Errorf("%d Services, %v", len(got.Services), got.Err())
	}
}

// Two ready pods in two zones, one that leaves and one whose node has no zone.
func TestHintsFollowTrafficDistribution(t *testing.T) {
	t.Parallel()
	const cluster = `
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: s}}
spec: {nodeName: n1, containers: [{name: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: s}, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: n1, containers: [{name: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: s}}
spec: {nodeName: n2, containers: [{name: x}]}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {%sselector: {app: s}, ports: [{port: 80}]}
`
	for distribution, want := range map[string]string{
		"":                                      "a zones=[] nodes=[], b zones=[] nodes=[], c zones=[] nodes=[]",
		"trafficDistribution: PreferClose, ":    "a zones=[z1] nodes=[], b zones=[] nodes=[], c zones=[] nodes=[]",
		"trafficDistribution: PreferSameZone, ": "a zones=[z1] nodes=[], b zones=[] nodes=[], c zones=[] nodes=[]",
		"trafficDistribution: PreferSameNode, ": "a zones=[z1] nodes=[n1], b zones=[] nodes=[], c zones=[] nodes=[n2]",
		"publishNotReadyAddresses: true, trafficDistribution: PreferSameNode, ": "a zones=[z1] nodes=[n1], b zones=[z1] nodes=[n1], c zones=[] nodes=[n2]",
	} {
		var got []string
		for _, e := range expand(t, nil, cluster, distribution).EndpointSlices[0].Endpoints {
			zones, nodes := []string{}, []string{}
			if e.Hints != nil {
				for _, z := range e.Hints.ForZones {
					zones = append(zones, z.Name)
				}
				for _, n := range e.Hints.ForNodes {
					nodes = append(nodes, n.Name)
				}
			}
			got = append(got, fmt.Sprintf("%s zones=%v nodes=%v", e.TargetRef.Name, zones, nodes))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s\ngot  %s\nwant %s", distribution, strings.Join(got, ", "), want)
		}
	}
}

func TestWhatIsGivenIsKept(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {type: LoadBalancer, trafficDistribution: PreferSameZone, externalIPs: [192.0.2.9], sessionAffinity: ClientIP, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: Proxy}, {ip: "2001:db8::1"}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: z9}]}}]
`)
	proxy := corev1.LoadBalancerIPModeProxy
	want := []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &proxy}, {IP: "2001:db8::1"}}
	if diff := cmp.Diff(want, got.Services[0].Status.LoadBalancer.Ingress); diff != "" {
		t.Errorf("ingress (-want +got):\n%s", diff)
	}
	if e := got.EndpointSlices[0].Endpoints[0]; e.Hints == nil || e.Hints.ForZones[0].Name != "z9" {
		t.Errorf("hints %v, want those that were given", e.Hints)
	}
}

func TestHostPortsAreOnOneNodeOnce(t *testing.T) {
	t.Parallel()
	const twoNodes = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n---\n"
	pod := func(name, spec, port string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {%scontainers: [{name: x, ports: [{containerPort: 80, %s}]}]}\n---\n", name, spec, port)
	}
	got := expand(t, nil, "%s", twoNodes+pod("a", "", "hostPort: 8080")+pod("b", "", "hostPort: 8080")+pod("c", "", "hostPort: 8080")+
		pod("udp", "nodeName: n1, ", "hostPort: 8080, protocol: UDP")+pod("one", "nodeName: n1, ", "hostPort: 9090, hostIP: 192.0.2.1")+
		pod("another", "nodeName: n1, ", "hostPort: 9090, hostIP: 192.0.2.2")+pod("all", "nodeName: n1, ", "hostPort: 9090, hostIP: 0.0.0.0")+
		pod("host", "nodeName: n2, hostNetwork: true, ", "hostPort: 80")+pod("same", "nodeName: n2, ", "hostPort: 80"))
	done := expand(t, nil, "%s%sstatus: {phase: Failed}\n---\n%s", twoNodes, strings.TrimSuffix(pod("old", "nodeName: n1, ", "hostPort: 80"), "---\n"), pod("new", "nodeName: n1, ", "hostPort: 80"))
	if len(done.Pods) != 2 {
		t.Errorf("a pod that is done takes room: %v", done.Err())
	}
	var names []string
	for _, p := range got.Pods {
		names = append(names, p.Name+" on "+p.Spec.NodeName)
	}
	if diff := cmp.Diff([]string{"a on n2", "b on n1", "udp on n1", "one on n1", "another on n1", "host on n2"}, names); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	text := fmt.Sprint(got.Err())
	for _, want := range []string{
		"Pod default/c: no Node has its hostPorts free: spec.containers[0].ports[0].hostPort: 8080/TCP of Node n2 is taken by Pod default/a",
		"Pod default/all: spec.containers[0].ports[0].hostPort: 9090/TCP of Node n1 is taken by Pod default/one",
		"Pod default/same: spec.containers[0].ports[0].hostPort: 80/TCP of Node n2 is taken by Pod default/host",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("set aside\n%s\nwant %s", text, want)
		}
	}
}

func TestPortsOfASidecarHaveNames(t *testing.T) {
	t.Parallel()
	got := expand(t, nil, `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: s}, ports: [{port: 80, targetPort: proxy}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: s}}
spec:
  containers: [{name: x}]
  initContainers: [{name: proxy, restartPolicy: Always, ports: [{name: proxy, containerPort: 15000}]}]
`)
	if p := *got.EndpointSlices[0].Ports[0].Port; p != 15000 {
		t.Errorf("port %d, want the sidecar's 15000", p)
	}
}

func TestServicesThatTheAPIRefusesAreSetAside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ spec, port, want string }{
		{"type: ExternalName, ", "{port: 80}", "spec.externalName is missing"},
		{"", "{port: 80, nodePort: 30080}", "spec.ports[0].nodePort: 30080 is for type NodePort or LoadBalancer only"},
		{"type: NodePort, ", "{port: 80, nodePort: 70000}", "spec.ports[0].nodePort: 70000 is no port"},
		{"type: NodePort, ", "{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}", "spec.ports[1].nodePort: 30080/TCP is here twice"},
		{"type: NodePort, healthCheckNodePort: 30000, ", "{port: 80}", "spec.healthCheckNodePort: 30000 is for type LoadBalancer with externalTrafficPolicy Local only"},
		{"externalIPs: [any], ", "{port: 80}", `spec.externalIPs[0]: "any" is no IP address`},
		{"loadBalancerSourceRanges: [10.0.0.0/8], ", "{port: 80}", "spec.loadBalancerSourceRanges: is for type LoadBalancer only"},
		{"type: LoadBalancer, loadBalancerSourceRanges: [all], ", "{port: 80}", `spec.loadBalancerSourceRanges[0]: "all" is no CIDR`},
		{"internalTrafficPolicy: Zone, ", "{port: 80}", `spec.internalTrafficPolicy "Zone": want Cluster, Local`},
		{"type: NodePort, externalTrafficPolicy: Zone, ", "{port: 80}", `spec.externalTrafficPolicy "Zone": want Cluster, Local`},
		{"externalTrafficPolicy: Local, ", "{port: 80}", "spec.externalTrafficPolicy: is for type NodePort or LoadBalancer, or with externalIPs, only"},
		{"trafficDistribution: Near, ", "{port: 80}", `spec.trafficDistribution "Near": want PreferClose, PreferSameZone, PreferSameNode`},
		{"sessionAffinity: Cookie, ", "{port: 80}", `spec.sessionAffinity "Cookie": want None, ClientIP`},
		{"sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ", "{port: 80}", "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0: want 1 to 86400"},
		{"sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}, ", "{port: 80}", "spec.sessionAffinityConfig: is for sessionAffinity ClientIP only"},
	} {
		got := Decode("f.yaml", []byte(serviceYAML("s", c.spec, c.port)))
		if text := fmt.Sprint(got.Err()); !strings.Contains(text, c.want) {
			t.Errorf("got  %s\nwant %s", text, c.want)
		}
	}
	for status, want := range map[string]string{
		"{ip: lb.example}":             `status.loadBalancer.ingress[0].ip: "lb.example" is no IP address`,
		"{ip: 192.0.2.1, ipMode: DSR}": `status.loadBalancer.ingress[0].ipMode "DSR": want VIP, Proxy`,
		"{}":                           "status.loadBalancer.ingress[0]: has no ip and no hostname",
	} {
		got := Decode("f.yaml", fmt.Appendf(nil, "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\nstatus: {loadBalancer: {ingress: [%s]}}\n", status))
		if text := fmt.Sprint(got.Err()); !strings.Contains(text, want) {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
	for port, want := range map[string]string{
		"{containerPort: 80, hostPort: 65536}":                "spec.containers[0].ports[0].hostPort: 65536 is no port",
		"{containerPort: 80, hostPort: 80, hostIP: everyone}": `spec.containers[0].ports[0].hostIP: "everyone" is no IP address`,
	} {
		got := Decode("f.yaml", fmt.Appendf(nil, "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: x, ports: [%s]}]}\n", port))
		if text := fmt.Sprint(got.Err()); !strings.Contains(text, want) {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
}

func TestAddressesComeFromServiceCIDRs(t *testing.T) {
	t.Parallel()
	const ranges = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: %s}\nspec: {cidrs: [%s]}\n---\n"
	got := expand(t, nil, ranges+ranges+"%s", "kubernetes", "10.200.0.0/24", "more", "10.201.0.0/24", serviceYAML("a", "ipFamilyPolicy: PreferDualStack, ", "{port: 80}"))
	if diff := cmp.Diff([]string{"10.200.0.11", "fd00:10:96::b"}, got.Services[0].Spec.ClusterIPs); diff != "" {
		t.Errorf("ClusterIPs (-want +got):\n%s", diff)
	}
	for cidr, want := range map[string]string{"10.96.0.1/16": "is no CIDR such as", "": "spec.cidrs is missing"} {
		if text := fmt.Sprint(Decode("f.yaml", fmt.Appendf(nil, ranges, "kubernetes", cidr)).Err()); !strings.Contains(text, want) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}
