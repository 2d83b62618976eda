// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// rows returns the rows of all layers as text, those of a node after its name, that contain one of some words; all
// without words.
func rows(out Output, words ...string) (lines []string) {
	for layer, tables := range out.Layers {
		for _, line := range text(tables, out.Layers[model.ClusterLayer]) {
			if layer.Kind == model.LayerNode {
				line = layer.Name + ": " + line
			}
			if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
				lines = append(lines, line)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func full(t *testing.T, settings Settings, facts ...*schemas.Fact) Output {
	t.Helper()
	db := state.New()
	if _, err := db.Apply(facts...); err != nil {
		t.Fatal(err)
	}
	return Full(db.Snapshot(), ids.New(0), settings)
}

// on is an endpoint on a node with hints such as "zone z1" and "node n1", and conditions as endpoint has them.
func on(node, addr string, words ...string) *schemas.SliceEndpoint {
	e := endpoint(addr, words...)
	e.Node = node
	for _, w := range words {
		if zone, is := strings.CutPrefix(w, "zone "); is {
			e.ZoneHints = append(e.ZoneHints, zone)
		}
		if name, is := strings.CutPrefix(w, "node "); is {
			e.NodeHints = append(e.NodeHints, name)
		}
	}
	return e
}

// TestTopology holds the sets and views to the rules of CategorizeEndpoints, in the words of
// https://kubernetes.io/docs/concepts/services-networking/service-traffic-policy and .../endpoint-slices.
//
// Row 10: sets and their parts by zone, node and locality are those of kube-proxy's rules, each rule in its own
// words.
func TestTopology(t *testing.T) {
	cluster := &schemas.Service{}
	internal := &schemas.Service{InternalLocal: true}
	external := &schemas.Service{ExternalLocal: true, Type: "NodePort", Ports: ports(port("http", model.TCP, 80))}
	external.Ports[0].NodePort = 30080
	const set, view = "set shop/web:80/TCP v4", "shop/web:80/TCP v4 for "
	for _, test := range []struct {
		name      string
		service   *schemas.Service
		endpoints []*schemas.SliceEndpoint
		want      []string // sets and views; backends of nodes' layers
	}{
		{
			"without hints and policies there is the root alone",
			cluster, ports(on("n1", "10.1.0.1", "ready"), on("n2", "10.1.0.2", "ready")),
			[]string{set},
		},
		{
			"if all ready endpoints have zone hints there is a view for each zone that is named",
			cluster, ports(on("n1", "10.1.0.1", "ready", "zone z1"), on("n2", "10.1.0.2", "ready", "zone z2", "zone z3")),
			[]string{set + " zone-hints", view + "zone z1 10.1.0.1:8080", view + "zone z2 10.1.0.2:8080", view + "zone z3 10.1.0.2:8080"},
		},
		{
			"one ready endpoint without a hint and hints don't count",
			cluster, ports(on("n1", "10.1.0.1", "ready", "zone z1"), on("n2", "10.1.0.2", "ready")),
			[]string{set},
		},
		{
			"hints that endpoints lack which aren't ready don't matter, nor do theirs",
			cluster, ports(on("n1", "10.1.0.1", "ready", "zone z1"), on("n2", "10.1.0.2"),
				on("n2", "10.1.0.3", "serving", "terminating"), on("n2", "10.1.0.4", "serving", "terminating", "zone z2")),
			[]string{set + " zone-hints", view + "zone z1 10.1.0.1:8080"},
		},
		{
			"without a ready endpoint hints don't count",
			cluster, ports(on("n1", "10.1.0.1", "serving", "terminating", "zone z1", "node n1")),
			[]string{"n1: shop/web:80/TCP 10.1.0.1:8080 terminating kept", set + " fallback"},
		},
		{
			"node hints make views in the layers of the nodes they name",
			cluster, ports(on("n1", "10.1.0.1", "ready", "node n1", "zone z1"), on("n2", "10.1.0.2", "ready", "node n2", "zone z1")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 active kept", "n1: " + view + "node 10.1.0.1:8080",
				"n2: shop/web:80/TCP 10.1.0.2:8080 active kept", "n2: " + view + "node 10.1.0.2:8080",
				set + " node-hints zone-hints", view + "zone z1 10.1.0.1:8080 10.1.0.2:8080",
			},
		},
		{
			"a hint may name another node than the endpoint's",
			cluster, ports(on("n1", "10.1.0.1", "ready", "node n2", "node n3")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 active kept",
				"n2: shop/web:80/TCP 10.1.0.1:8080 active kept", "n2: " + view + "node 10.1.0.1:8080",
				"n3: shop/web:80/TCP 10.1.0.1:8080 active kept", "n3: " + view + "node 10.1.0.1:8080",
				set + " node-hints",
			},
		},
		{
			"an endpoint that loses its hint keeps its connections: it stays a backend in its node's layer",
			cluster, ports(on("n1", "10.1.0.1", "serving", "terminating"), on("n2", "10.1.0.2", "ready", "node n2"), on("n3", "10.1.0.3", "ready")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 terminating kept", "n2: shop/web:80/TCP 10.1.0.2:8080 active kept",
				"n3: shop/web:80/TCP 10.1.0.3:8080 active kept", set,
			},
		},
		{
			"internalTrafficPolicy Local: each node with endpoints has those that are ready there",
			internal, ports(on("n1", "10.1.0.1", "ready"), on("n1", "10.1.0.2", "ready"), on("n2", "10.1.0.3"), on("", "10.1.0.4", "ready")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 active kept", "n1: shop/web:80/TCP 10.1.0.2:8080 active kept",
				"n1: " + view + "local 10.1.0.1:8080 10.1.0.2:8080", set,
			},
		},
		{
			"Local falls back to what terminates and serves on the node, though others are ready elsewhere",
			internal, ports(on("n1", "10.1.0.1", "serving", "terminating"), on("n1", "10.1.0.2", "terminating"), on("n2", "10.1.0.3", "ready"), on("n2", "10.1.0.4", "serving", "terminating")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 terminating kept", "n1: shop/web:80/TCP 10.1.0.2:8080 terminating kept",
				"n1: " + view + "local 10.1.0.1:8080 fallback",
				"n2: shop/web:80/TCP 10.1.0.3:8080 active kept", "n2: shop/web:80/TCP 10.1.0.4:8080 terminating kept",
				"n2: " + view + "local 10.1.0.3:8080", set,
			},
		},
		{
			"a node whose endpoints only finish has no local view, so that new connections are dropped there",
			internal, ports(on("n1", "10.1.0.1", "terminating"), on("n2", "10.1.0.2", "ready")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 terminating kept", "n2: shop/web:80/TCP 10.1.0.2:8080 active kept",
				"n2: " + view + "local 10.1.0.2:8080", set,
			},
		},
		{
			"policies Local ignore hints",
			internal, ports(on("n1", "10.1.0.1", "ready", "zone z1", "node n2"), on("n2", "10.1.0.2", "ready", "zone z1", "node n2")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 active kept", "n1: " + view + "local 10.1.0.1:8080",
				"n2: shop/web:80/TCP 10.1.0.1:8080 active kept", "n2: shop/web:80/TCP 10.1.0.2:8080 active kept",
				"n2: " + view + "local 10.1.0.2:8080", "n2: " + view + "node 10.1.0.1:8080 10.1.0.2:8080",
				set + " node-hints zone-hints", view + "zone z1 10.1.0.1:8080 10.1.0.2:8080",
			},
		},
		{
			"externalTrafficPolicy Local has local views",
			external, ports(on("n1", "10.1.0.1", "ready")),
			[]string{"n1: shop/web:80/TCP 10.1.0.1:8080 active kept", "n1: " + view + "local 10.1.0.1:8080", set},
		},
		{
			"externalTrafficPolicy Local means nothing for a Service that can't be reached from outside",
			&schemas.Service{ExternalLocal: true}, ports(on("n1", "10.1.0.1", "ready")),
			[]string{set},
		},
		{
			"nodes tell of their local backends before a load balancer has an address",
			&schemas.Service{ExternalLocal: true, Type: "LoadBalancer", HealthCheckNodePort: 32000}, ports(on("n1", "10.1.0.1", "ready")),
			[]string{"n1: shop/web:80/TCP 10.1.0.1:8080 active kept", "n1: " + view + "local 10.1.0.1:8080", set},
		},
		{
			"affinity is in every set",
			&schemas.Service{InternalLocal: true, AffinitySeconds: 86400}, ports(on("n1", "10.1.0.1", "ready", "zone z1", "node n1")),
			[]string{
				"n1: shop/web:80/TCP 10.1.0.1:8080 active kept", "n1: " + view + "local 10.1.0.1:8080 affinity 86400s",
				"n1: " + view + "node 10.1.0.1:8080 affinity 86400s",
				set + " node-hints zone-hints affinity 86400s", view + "zone z1 10.1.0.1:8080 affinity 86400s",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.service.ClusterIps = ips("10.96.0.1")
			if test.service.Ports == nil {
				test.service.Ports = ports(port("http", model.TCP, 80))
			}
			out := full(t, Settings{}, serviceFact("web", test.service),
				sliceFact("a", "web", endpoints(model.IPv4, ports(target("http", model.TCP, 8080)), test.endpoints...)))
			if diff := cmp.Diff(test.want, rows(out, "set ", " for ", "n1: ", "n2: ", "n3: ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Row 10: hints of an endpoint in several slices add up.
func TestHintsOfSeveralSlicesAddUp(t *testing.T) {
	http := ports(target("http", model.TCP, 8080))
	out := full(t, Settings{}, serviceFact("web", &schemas.Service{ClusterIps: ips("10.96.0.1"), Ports: ports(port("http", model.TCP, 80))}),
		sliceFact("a", "web", endpoints(model.IPv4, http, on("n1", "10.1.0.1", "ready", "zone z1"))),
		sliceFact("b", "web", endpoints(model.IPv4, http, on("", "10.1.0.1", "ready", "zone z2"))),
		sliceFact("c", "web", endpoints(model.IPv4, http, on("n2", "10.1.0.1", "serving", "terminating", "zone z3"))))
	want := []string{
		"set shop/web:80/TCP v4 zone-hints",
		"shop/web:80/TCP v4 for zone z1 10.1.0.1:8080", "shop/web:80/TCP v4 for zone z2 10.1.0.1:8080",
	}
	if diff := cmp.Diff(want, rows(out, "set ", " for ")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBackendsOfNodesNameTheirTwins gives a Service the policy Local; a hostPort has no twin.
func TestBackendsOfNodesNameTheirTwins(t *testing.T) {
	http := ports(target("http", model.TCP, 8080))
	facts := func(local bool) []*schemas.Fact {
		return []*schemas.Fact{
			serviceFact("web", &schemas.Service{ClusterIps: ips("10.96.0.1"), InternalLocal: local, Ports: ports(port("http", model.TCP, 80))}),
			sliceFact("a", "web", endpoints(model.IPv4, http, on("n1", "10.1.0.1", "ready"), on("n2", "10.1.0.2", "serving", "terminating"))),
			podFact("p", &schemas.Pod{
				Node: "n1", Addresses: ips("10.1.0.9"),
				HostPorts: []*schemas.HostPort{{Protocol: schemas.Protocol_PROTOCOL_TCP, HostPort: 8080, ContainerPort: 80}},
			}),
		}
	}
	db, alloc := state.New(), ids.New(0)
	apply := func(local bool) *state.Snapshot {
		if _, err := db.Apply(facts(local)...); err != nil {
			t.Fatal(err)
		}
		return db.Snapshot()
	}
	before := apply(false)
	layers := Full(before, alloc, Settings{}).Layers
	after := apply(true)
	work := Work{Units: []Unit{ServiceUnit(state.Name{Namespace: "shop", Name: "web"})}}
	for layer, change := range together(t, update(before, after, alloc, Settings{}, work)) {
		if layers[layer] == nil {
			layers[layer] = model.NewTables()
		}
		layers[layer].Apply(change, model.Digest{})
	}
	var got []string
	for layer, tables := range layers {
		for _, b := range tables.Backends {
			twin := layers[model.ClusterLayer].Backends[b.Twin]
			got = append(got, fmt.Sprintf("%s %s: %s of place %d", layer, b.Addr, twin.Addr, twin.Place))
			if b.Twin != 0 && twin.Set != b.Set {
				t.Errorf("%+v has the twin %+v", b, twin)
			}
		}
	}
	slices.Sort(got)
	want := []string{
		"cluster 10.1.0.1: invalid IP of place 0", "cluster 10.1.0.2: invalid IP of place 0",
		"node.n1 10.1.0.1: 10.1.0.1 of place 0", "node.n1 10.1.0.9: invalid IP of place 0",
		"node.n2 10.1.0.2: 10.1.0.2 of place 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layers, backends, twins (-want +got):\n%s", diff)
	}
}

func TestEachFamilyHasItsOwnLocalViews(t *testing.T) {
	http := ports(target("http", model.TCP, 8080))
	out := full(t, Settings{},
		serviceFact("web", &schemas.Service{ClusterIps: ips("fd96::1", "10.96.0.1"), InternalLocal: true, Ports: ports(port("http", model.TCP, 80))}),
		sliceFact("a", "web", endpoints(model.IPv4, http, on("n1", "10.1.0.1", "ready"))),
		sliceFact("b", "web", endpoints(model.IPv6, http, on("n1", "fd00::1", "ready"), on("n2", "fd00::2", "ready"))))
	want := []string{
		"n1: shop/web:80/TCP v4 for local 10.1.0.1:8080", "n1: shop/web:80/TCP v6 for local [fd00::1]:8080",
		"n2: shop/web:80/TCP v6 for local [fd00::2]:8080",
	}
	if diff := cmp.Diff(want, rows(out, " for ")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
