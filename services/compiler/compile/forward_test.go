// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

func forwarding(how string) func(*schemas.Service) {
	return func(s *schemas.Service) { s.Forwarding = how }
}

// forwarded writes how clients from outside are forwarded: frontends other than cluster addresses, and the sets that are
// for them.
func forwarded(out Output) (lines []string) {
	cluster := out.Layers[model.ClusterLayer]
	for _, f := range cluster.Frontends {
		how := map[model.FrontendFlags]string{0: "snat", model.ForwardTunnel: "tunnel", model.ForwardDSR: "dsr", model.ExternalLocal: "local"}
		if f.Kind != model.FrontendRefused && f.Kind != model.FrontendClusterIP {
			lines = append(lines, f.FrontendKey.String()+" "+how[f.Flags&^model.SourceRanges])
		} else if how := f.Flags & (model.ForwardTunnel | model.ForwardDSR); how != 0 {
			lines = append(lines, fmt.Sprintf("%s has flags %#x", f.FrontendKey, how))
		}
	}
	for layer, tables := range out.Layers {
		for _, s := range tables.Sets {
			if s.Flags&model.External != 0 {
				lines = append(lines, fmt.Sprintf("%s scope %d of %s is for outside", layer, s.Scope, s.Service))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func TestClientsFromOutsideAreForwardedAsTheServiceOrTheClusterSays(t *testing.T) {
	root := "cluster scope 1 of shop/web:80 is for outside"
	for _, test := range []struct {
		name     string
		settings Settings
		fact     *schemas.Fact
		want     []string
		aside    []string
	}{
		{"by default in a tunnel", Settings{}, web("web", nodePort(30080)), []string{root, "node4:30080/TCP tunnel"}, nil},
		{"a cluster address is for nobody outside", Settings{Forwarding: state.ForwardDSR}, web("web"), nil, nil},
		{
			"each address from outside",
			Settings{Forwarding: state.ForwardDSR, AllowExternalIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			web("web", nodePort(30080), external("192.0.2.9"), balancer("192.0.2.1"), ranges("203.0.113.0/24")),
			[]string{"192.0.2.1:80/TCP dsr", "192.0.2.9:80/TCP dsr", root, "node4:30080/TCP dsr"},
			nil,
		},
		{"as the Service says", Settings{Forwarding: state.ForwardDSR}, web("web", nodePort(30080), forwarding("snat")), []string{root, "node4:30080/TCP snat"}, nil},
		{"as the Service says, dsr", Settings{Forwarding: state.ForwardSNAT}, web("web", nodePort(30080), forwarding("dsr")), []string{root, "node4:30080/TCP dsr"}, nil},
		{"as the Service says, tunnel", Settings{Forwarding: state.ForwardSNAT}, web("web", nodePort(30080), forwarding("tunnel")), []string{root, "node4:30080/TCP tunnel"}, nil},
		{"under policy Local not at all", Settings{}, web("web", nodePort(30080), local, forwarding("dsr")), []string{"node4:30080/TCP local"}, nil},
		{
			"what can't be read is named, and loses nothing",
			Settings{Forwarding: state.ForwardDSR},
			web("web", nodePort(30080), forwarding("DSR")),
			[]string{root, "node4:30080/TCP dsr"},
			[]string{`Service web: annotation deltaplane.io/forwarding: "DSR" is none of tunnel, dsr and snat; it is forwarded as the cluster's default is`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := full(t, test.settings, test.fact)
			if diff := cmp.Diff(test.want, forwarded(out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.aside, reasons(out)); diff != "" {
				t.Errorf("set aside (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheSetsOfZonesAreForOutsideTooButNoNodes(t *testing.T) {
	out := full(t, Settings{}, web("web", nodePort(30080), internalLocal), sliceFact("web-1", "web", endpoints(model.IPv4,
		ports(target("http", model.TCP, 8080)), on("n1", "10.1.0.1", "ready", "zone z1", "node n1"), on("n2", "10.1.1.1", "ready", "zone z2", "node n2"))))
	want := []string{
		"cluster scope 1 of shop/web:80 is for outside", "cluster scope 2 of shop/web:80 is for outside", "cluster scope 2 of shop/web:80 is for outside",
		"node4:30080/TCP tunnel",
	}
	if diff := cmp.Diff(want, forwarded(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// placed writes where backends are, and their weights, in all layers.
func placed(out Output, names ...string) (lines []string) {
	numbers := map[model.NodeID]string{0: "nowhere"}
	for _, name := range names {
		numbers[model.NodeIDOf(name)] = name
	}
	for layer, tables := range out.Layers {
		for _, b := range tables.Backends {
			lines = append(lines, fmt.Sprintf("%s: %s on %s weighs %d", layer, netip.AddrPortFrom(b.Addr, b.Port), numbers[b.Node], b.Share()))
		}
	}
	slices.Sort(lines)
	return lines
}

func weighing(weight string, m *schemas.EndpointSlice) *schemas.EndpointSlice {
	m.Weight = weight
	return m
}

func TestABackendSaysItsNodeInEachLayer(t *testing.T) {
	out := full(t, Settings{}, web("web", internalLocal), sliceFact("web-1", "web", endpoints(model.IPv4, ports(target("http", model.TCP, 8080)),
		on("n1", "10.1.0.1", "ready", "node n2"), on("n2", "10.1.1.1", "ready"), on("", "10.1.2.1", "ready"))),
		hostPod("pod", "n1", []string{"10.1.0.9"}, hostPort(model.TCP, 8080, 80, "")))
	want := []string{
		"cluster: 10.1.0.1:8080 on n1 weighs 1", "cluster: 10.1.1.1:8080 on n2 weighs 1", "cluster: 10.1.2.1:8080 on nowhere weighs 1",
		"node.n1: 10.1.0.1:8080 on n1 weighs 1", "node.n1: 10.1.0.9:80 on n1 weighs 1",
		"node.n2: 10.1.0.1:8080 on n1 weighs 1", "node.n2: 10.1.1.1:8080 on n2 weighs 1",
	}
	if diff := cmp.Diff(want, placed(out, "n1", "n2")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnEndpointOfSeveralSlicesHasTheHighestWeightOfItsBestCondition(t *testing.T) {
	one := ports(target("http", model.TCP, 8080))
	out := full(t, Settings{}, web("web"),
		sliceFact("web-1", "web", weighing("20", endpoints(model.IPv4, one, on("n1", "10.1.0.1", "ready"), on("n1", "10.1.0.2", "ready")))),
		sliceFact("web-2", "web", weighing("30", endpoints(model.IPv4, one, on("n1", "10.1.0.1", "ready")))),
		sliceFact("web-3", "web", weighing("90", endpoints(model.IPv4, one, on("n1", "10.1.0.1", "terminating", "serving"), on("n1", "10.1.0.3", "ready")))),
		sliceFact("web-4", "web", weighing("101", endpoints(model.IPv4, one, on("n1", "10.1.0.4", "ready")))))
	want := []string{
		"cluster: 10.1.0.1:8080 on n1 weighs 30", "cluster: 10.1.0.2:8080 on n1 weighs 20", "cluster: 10.1.0.3:8080 on n1 weighs 90",
		"cluster: 10.1.0.4:8080 on n1 weighs 1",
	}
	if diff := cmp.Diff(want, placed(out, "n1")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	aside := []string{`EndpointSlice web-4: annotation deltaplane.io/weight: "101" is no number from 1 to 100; its endpoints have weight 1`}
	if diff := cmp.Diff(aside, reasons(out)); diff != "" {
		t.Errorf("set aside (-want +got):\n%s", diff)
	}
}

// Two names with one number, found by trying 70,000.
const sameNumber, sameNumberToo = "node-42912", "node-70020"

func TestNodesAreReachedByTheirInternalIPs(t *testing.T) {
	node := func(name string, internal ...string) *schemas.Fact {
		return nodeFact(name, &schemas.Node{Addresses: ips(append(internal, "203.0.113.1")...), InternalIps: ips(internal...)})
	}
	out := full(t, Settings{}, node("n1", "192.168.0.1", "192.168.0.9", "fd01::1"), node("n2", "fe80::1", "127.0.0.2", "fd01::2"), node("n3"),
		node(sameNumber, "192.168.0.4"), node(sameNumberToo, "192.168.0.5"))
	want := map[model.NodeID]model.Node{
		model.NodeIDOf("n1"): {ID: model.NodeIDOf("n1"), V4: netip.MustParseAddr("192.168.0.1"), V6: netip.MustParseAddr("fd01::1")},
		model.NodeIDOf("n2"): {ID: model.NodeIDOf("n2"), V6: netip.MustParseAddr("fd01::2")},
	}
	if diff := cmp.Diff(want, out.Layers[model.ClusterLayer].Nodes, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	reason := func(name, other string) string {
		return "Node " + name + ": its name comes to the number 0xdff04b01, as that of Node " + other + " does: clients from outside reach " +
			"the backends of both with the address of the node that they dialled; give one of them another name"
	}
	if diff := cmp.Diff([]string{reason(sameNumber, sameNumberToo), reason(sameNumberToo, sameNumber)}, reasons(out)); diff != "" {
		t.Errorf("set aside (-want +got):\n%s", diff)
	}
}

func TestANumberThatOneNodeLeavesIsTheOthers(t *testing.T) {
	db := state.New()
	node := func(name, addr string) *schemas.Fact { return nodeFact(name, &schemas.Node{InternalIps: ips(addr)}) }
	apply(t, db, node(sameNumber, "192.168.0.4"), node(sameNumberToo, "192.168.0.5"))
	work := apply(t, db, absent(state.KindNode, sameNumber))
	if !slices.Contains(work.Units, NumberUnit(model.NodeIDOf(sameNumberToo))) {
		t.Fatalf("units %v", work.Units)
	}
	settings := Settings{}
	c := compileUnit(db.Snapshot(), &settings, NumberUnit(model.NodeIDOf(sameNumberToo)))
	if len(c.aside) != 0 || len(c.nodes) != 1 || c.nodes[0].V4 != netip.MustParseAddr("192.168.0.5") {
		t.Errorf("%+v", c)
	}
}
