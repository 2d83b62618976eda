// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

func TestNodeKnowsItsZoneAndThatItIsDraining(t *testing.T) {
	out := full(t, Settings{}, nodeFact("n1", &schemas.Node{Zone: "z1"}), nodeFact("n2", &schemas.Node{Draining: true}),
		nodeFact("n3", &schemas.Node{Zone: strings.Repeat("z", 64)}))
	want := []string{`n1: self zone "z1" draining false`, `n2: self zone "" draining true`, `n3: self zone "" draining false`}
	if diff := cmp.Diff(want, rows(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	aside := []string{`Node n3: its zone "` + strings.Repeat("z", 64) + `" is not used: it names none`}
	if diff := cmp.Diff(aside, reasons(out)); diff != "" {
		t.Errorf("set aside (-want +got):\n%s", diff)
	}
}

func TestNodesZoneTouchesNothingButTheNode(t *testing.T) {
	db := state.New()
	apply(t, db, web("web", internalLocal), nodeFact("n1", &schemas.Node{Zone: "z1", PodCidrs: []string{"10.1.0.0/24"}}))
	work := apply(t, db, nodeFact("n1", &schemas.Node{Zone: "z2", PodCidrs: []string{"10.1.0.0/24"}}))
	if diff := cmp.Diff(Work{Units: []Unit{NodeUnit("n1")}}, work, cmp.Comparer(func(a, b Unit) bool { return a == b })); diff != "" {
		t.Errorf("touched (-want +got):\n%s", diff)
	}
}

func hostPort(protocol model.Protocol, host, container uint32, hostIP string) *schemas.HostPort {
	h := &schemas.HostPort{Protocol: schemas.Protocol(protocol), HostPort: host, ContainerPort: container}
	if hostIP != "" {
		h.HostIp = ip(hostIP)
	}
	return h
}

func hostPod(name, node string, addrs []string, list ...*schemas.HostPort) *schemas.Fact {
	return podFact(name, &schemas.Pod{Node: node, Addresses: ips(addrs...), HostPorts: list})
}

func TestHostPorts(t *testing.T) {
	one := []string{"10.1.0.1"}
	for _, test := range []struct {
		name  string
		facts []*schemas.Fact
		want  []string
		aside []string
	}{
		{
			"a hostPort leads from each address of the node to the pod, in each family that it has",
			ports(hostPod("a", "n1", []string{"10.1.0.1", "fd00::1"}, hostPort(model.TCP, 8080, 80, ""))),
			[]string{
				"n1: node4:8080/TCP -> shop/a:8080 v4 host-port", "n1: node6:8080/TCP -> shop/a:8080 v6 host-port",
				"n1: shop/a:8080/TCP 10.1.0.1:80 active member", "n1: shop/a:8080/TCP [fd00::1]:80 active member",
			},
			nil,
		},
		{
			"the same port over UDP, or at another address, or on another node, is another one",
			ports(hostPod("a", "n1", one, hostPort(model.TCP, 8080, 80, "127.0.0.1")), hostPod("b", "n1", []string{"10.1.0.2"}, hostPort(model.TCP, 8080, 80, "192.0.2.9")),
				hostPod("c", "n1", []string{"10.1.0.3"}, hostPort(model.UDP, 8080, 80, "192.0.2.9")), hostPod("d", "n2", []string{"10.1.1.1"}, hostPort(model.TCP, 8080, 80, "127.0.0.1"))),
			[]string{
				"n1: 127.0.0.1:8080/TCP -> shop/a@127.0.0.1:8080 v4 host-port", "n1: 192.0.2.9:8080/TCP -> shop/b@192.0.2.9:8080 v4 host-port",
				"n1: 192.0.2.9:8080/UDP -> shop/c@192.0.2.9:8080 v4 host-port",
				"n1: shop/a@127.0.0.1:8080/TCP 10.1.0.1:80 active member", "n1: shop/b@192.0.2.9:8080/TCP 10.1.0.2:80 active member",
				"n1: shop/c@192.0.2.9:8080/UDP 10.1.0.3:80 active member",
				"n2: 127.0.0.1:8080/TCP -> shop/d@127.0.0.1:8080 v4 host-port", "n2: shop/d@127.0.0.1:8080/TCP 10.1.1.1:80 active member",
			},
			nil,
		},
		{
			"one pod's hostPort may lead to other ports at other addresses",
			ports(hostPod("a", "n1", one, hostPort(model.TCP, 8080, 80, "127.0.0.1"), hostPort(model.TCP, 8080, 81, "192.0.2.9"))),
			[]string{
				"n1: 127.0.0.1:8080/TCP -> shop/a@127.0.0.1:8080 v4 host-port", "n1: 192.0.2.9:8080/TCP -> shop/a@192.0.2.9:8080 v4 host-port",
				"n1: shop/a@127.0.0.1:8080/TCP 10.1.0.1:80 active member", "n1: shop/a@192.0.2.9:8080/TCP 10.1.0.1:81 active member",
			},
			nil,
		},
		{
			"the unspecified address is each address of its family",
			ports(hostPod("a", "n1", []string{"10.1.0.1", "fd00::1"}, hostPort(model.TCP, 8080, 80, "0.0.0.0"), hostPort(model.UDP, 53, 53, "::"))),
			[]string{
				"n1: node4:8080/TCP -> shop/a:8080 v4 host-port", "n1: node6:53/UDP -> shop/a:53 v6 host-port",
				"n1: shop/a:53/UDP [fd00::1]:53 active member", "n1: shop/a:8080/TCP 10.1.0.1:80 active member",
			},
			nil,
		},
		{
			"of two pods with the same hostPort the first by name has it",
			ports(hostPod("a", "n1", one, hostPort(model.TCP, 8080, 80, "")), hostPod("b", "n1", []string{"10.1.0.2"}, hostPort(model.TCP, 8080, 80, ""))),
			[]string{"n1: node4:8080/TCP -> shop/a:8080 v4 host-port", "n1: shop/a:8080/TCP 10.1.0.1:80 active member"},
			[]string{"Pod b: its hostPort node4:8080/TCP is Pod shop/a's on node n1: one of them has to go elsewhere"},
		},
		{
			"an address that a Service has is the Service's",
			ports(web("web"), hostPod("a", "n1", one, hostPort(model.TCP, 8080, 80, "10.96.0.1"))),
			nil,
			[]string{"Pod a: its hostPort 10.96.0.1:8080/TCP is not used: Service shop/web has that address"},
		},
		{
			"an external address may be shared with Services on other ports",
			ports(web("web", balancer("192.0.2.9")), hostPod("a", "n1", one, hostPort(model.TCP, 8080, 80, "192.0.2.9"), hostPort(model.TCP, 80, 80, "192.0.2.9"))),
			[]string{"n1: 192.0.2.9:8080/TCP -> shop/a@192.0.2.9:8080 v4 host-port", "n1: shop/a@192.0.2.9:8080/TCP 10.1.0.1:80 active member"},
			[]string{"Pod a: its hostPort 192.0.2.9:80/TCP is not used: Service shop/web has that address"},
		},
		{
			"a hostPort at an address of a family that the pod hasn't is named",
			ports(hostPod("a", "n1", one, hostPort(model.TCP, 8080, 80, "2001:db8::9"))),
			nil,
			[]string{"Pod a: its hostPort 8080/TCP on 2001:db8::9 is not used: it has no address of that family"},
		},
		{
			"a hostPort that can't be is named, the others are used",
			ports(hostPod("a", "n1", one, hostPort(model.TCP, 8080, 0, ""), hostPort(model.TCP, 8081, 81, ""))),
			[]string{"n1: node4:8081/TCP -> shop/a:8081 v4 host-port", "n1: shop/a:8081/TCP 10.1.0.1:81 active member"},
			[]string{"Pod a: hostPorts[0] is not used: 8080 to 0: 0 is no port"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := full(t, Settings{}, test.facts...)
			if diff := cmp.Diff(test.want, rows(out, "host-port", "member")); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.aside, reasons(out)); diff != "" {
				t.Errorf("set aside (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodsThatUseTheNodesNetworkOrAreFinishedHaveNoHostPorts(t *testing.T) {
	host := hostPod("host", "n1", []string{"192.0.2.9"}, hostPort(model.TCP, 8080, 8080, ""))
	host.GetPod().HostNetwork = true
	done := hostPod("done", "n1", []string{"10.1.0.1"}, hostPort(model.TCP, 8081, 80, ""))
	done.GetPod().Finished = true
	starting := hostPod("starting", "n1", nil, hostPort(model.TCP, 8082, 80, ""))
	if got := rows(full(t, Settings{}, host, done, starting)); len(got) > 0 {
		t.Errorf("rows %q, want none", got)
	}
}

func TestPodMovesToAnotherNodeWithItsHostPort(t *testing.T) {
	db, alloc := state.New(), ids.New(ids.DefaultQuarantine)
	apply(t, db, hostPod("db-0", "n1", []string{"10.1.0.1"}, hostPort(model.TCP, 8080, 80, "")))
	before := db.Snapshot()
	layers := Full(before, alloc, Settings{}).Layers
	work := apply(t, db, hostPod("db-0", "n2", []string{"10.1.1.1"}, hostPort(model.TCP, 8080, 80, "")))
	for layer, change := range together(t, update(before, db.Snapshot(), alloc, Settings{}, work)) {
		if layers[layer] == nil {
			layers[layer] = model.NewTables()
		}
		alloc.Fold(layers[layer], change, start)
		layers[layer].Apply(change, model.Digest{})
	}
	want := []string{
		"n2: 10.1.1.1 is shop/db-0", "n2: node4:8080/TCP -> shop/db-0:8080 v4 host-port", "n2: set shop/db-0:8080/TCP v4",
		"n2: shop/db-0:8080/TCP 10.1.1.1:80 active member",
	}
	if diff := cmp.Diff(want, rows(Output{Layers: layers})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := alloc.Check(); err != nil {
		t.Error(err)
	}
}

func TestNameOfAHostPortsSetFits(t *testing.T) {
	long := strings.Repeat("p", 253)
	out := full(t, Settings{}, hostPod(long, "n1", []string{"10.1.0.1"}, hostPort(model.TCP, 8080, 80, "")),
		hostPod(long[:252]+"q", "n1", []string{"10.1.0.2"}, hostPort(model.TCP, 8081, 80, "")))
	names := map[string]bool{}
	for _, s := range out.Layers[model.NodeLayer("n1")].Sets {
		if len(s.Service.Name) != 63 || !strings.HasPrefix(s.Service.Name, "ppp") {
			t.Errorf("set %q has a name of %d bytes, want 63", s.Service.Name, len(s.Service.Name))
		}
		names[s.Service.Name] = true
	}
	if len(names) != 2 {
		t.Errorf("two pods have sets with the names %v", names)
	}
}

// Row 26: prefixes of pods and Services are those that were found, unless configuration gives others.
func TestNetworks(t *testing.T) {
	cluster := clusterFact("cluster", []string{"10.244.0.0/16"}, []string{"10.96.0.0/12", "fd96::/108"})
	node := nodeFact("n1", &schemas.Node{PodCidrs: []string{"10.244.1.0/24", "fd00:1::/64"}})
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	for _, test := range []struct {
		name     string
		settings Settings
		facts    []*schemas.Fact
		want     []string
		aside    []string
	}{
		{
			"what was found about the cluster and its nodes counts",
			Settings{},
			ports(cluster, node),
			[]string{"10.244.0.0/16 is pods", "10.244.1.0/24 is pods", "10.96.0.0/12 is services", "fd00:1::/64 is pods", "fd96::/108 is services"},
			nil,
		},
		{
			"pods' prefixes that are given overrule all found",
			Settings{PodCIDRs: prefixes("10.0.0.0/9")},
			ports(cluster, node),
			[]string{"10.0.0.0/9 is pods", "10.96.0.0/12 is services", "fd96::/108 is services"},
			nil,
		},
		{
			"so do Services'",
			Settings{ServiceCIDRs: prefixes("10.32.0.0/16")},
			ports(cluster),
			[]string{"10.244.0.0/16 is pods", "10.32.0.0/16 is services"},
			nil,
		},
		{
			"a prefix of pods and of Services is the Services'",
			Settings{},
			ports(clusterFact("cluster", []string{"10.96.0.0/12"}, []string{"10.96.0.0/12"})),
			[]string{"10.96.0.0/12 is services"},
			nil,
		},
		{
			"two nodes with one prefix make one row",
			Settings{},
			ports(node, nodeFact("n2", &schemas.Node{PodCidrs: []string{"10.244.1.0/24"}})),
			[]string{"10.244.1.0/24 is pods", "fd00:1::/64 is pods"},
			nil,
		},
		{
			"what can't be a prefix of the cluster is named, the rest is used",
			Settings{},
			ports(clusterFact("cluster", []string{"everything", "10.244.0.0/16"}, []string{"0.0.0.0/0"})),
			[]string{"10.244.0.0/16 is pods"},
			[]string{`Cluster cluster: podCIDRs[0] is not used: "everything" is no prefix such as 192.0.2.0/24; ` +
				"serviceCIDRs: 0.0.0.0/0 is more than a cluster's own: want /8 or longer"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := full(t, test.settings, test.facts...)
			if diff := cmp.Diff(test.want, rows(out, " is pods", " is services")); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.aside, reasons(out)); diff != "" {
				t.Errorf("set aside (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGivenPrefixesAreRead(t *testing.T) {
	if _, err := ParsePrefixes([]string{"192.0.2.0/24", "::/0"}); err != nil {
		t.Error(err)
	}
	for _, test := range []struct{ text, want string }{
		{"192.0.2.1", `"192.0.2.1" is no prefix such as 192.0.2.0/24`},
		{"192.0.2.1/24", "192.0.2.1/24 has bits after its prefix: do you mean 192.0.2.0/24?"},
		{"0.0.0.0/0", "0.0.0.0/0 is more than a cluster's own: want /8 or longer"},
		{"fd00::/8", "fd00::/8 is more than a cluster's own: want /16 or longer"},
	} {
		if _, err := ParseNetworks([]string{test.text}); err == nil || err.Error() != test.want {
			t.Errorf("%s: error %v, want %s", test.text, err, test.want)
		}
	}
}
