// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ip(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

func ips(texts ...string) (raw [][]byte) {
	for _, text := range texts {
		raw = append(raw, ip(text))
	}
	return raw
}

func object(kind, name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: kind, Namespace: "shop", Name: name}
}

func serviceFact(name string, s *schemas.Service) *schemas.Fact {
	return &schemas.Fact{Object: object("Service", name), State: &schemas.Fact_Service{Service: s}}
}

func sliceFact(name, service string, s *schemas.EndpointSlice) *schemas.Fact {
	s.Service = service
	return &schemas.Fact{Object: object("EndpointSlice", name), State: &schemas.Fact_EndpointSlice{EndpointSlice: s}}
}

func podFact(name string, p *schemas.Pod) *schemas.Fact {
	return &schemas.Fact{Object: object("Pod", name), State: &schemas.Fact_Pod{Pod: p}}
}

func nodeFact(name string, n *schemas.Node) *schemas.Fact {
	return &schemas.Fact{Object: &schemas.ObjectRef{Kind: "Node", Name: name}, State: &schemas.Fact_Node{Node: n}}
}

func clusterFact(name string, pods, services []string) *schemas.Fact {
	c := &schemas.Cluster{}
	for _, cidr := range pods {
		c.PodCidrs = append(c.PodCidrs, &schemas.Found{Value: cidr, Origin: "a test"})
	}
	for _, cidr := range services {
		c.ServiceCidrs = append(c.ServiceCidrs, &schemas.Found{Value: cidr, Origin: "a test"})
	}
	return &schemas.Fact{Object: &schemas.ObjectRef{Kind: "Cluster", Name: name}, State: &schemas.Fact_Cluster{Cluster: c}}
}

// absent says that an object is gone; Nodes and Clusters have no namespace.
func absent(kind, name string) *schemas.Fact {
	if kind == "Node" || kind == "Cluster" {
		return &schemas.Fact{Object: &schemas.ObjectRef{Kind: kind, Name: name}}
	}
	return gone(kind, name)
}

func gone(kind, name string) *schemas.Fact { return &schemas.Fact{Object: object(kind, name)} }

func port(name string, protocol model.Protocol, number uint32) *schemas.ServicePort {
	return &schemas.ServicePort{Name: name, Protocol: schemas.Protocol(protocol), Port: number}
}

func target(name string, protocol model.Protocol, number uint32) *schemas.EndpointPort {
	return &schemas.EndpointPort{Name: name, Protocol: schemas.Protocol(protocol), Port: number}
}

// endpoint reads "ADDRESS [ready|serving|terminating]...".
func endpoint(addr string, conditions ...string) *schemas.SliceEndpoint {
	return &schemas.SliceEndpoint{
		Address: ip(addr), Node: "n1", Zone: "z1",
		Ready:       slices.Contains(conditions, "ready"),
		Serving:     slices.Contains(conditions, "serving") || slices.Contains(conditions, "ready"),
		Terminating: slices.Contains(conditions, "terminating"),
	}
}

func endpoints(family model.Family, ports []*schemas.EndpointPort, list ...*schemas.SliceEndpoint) *schemas.EndpointSlice {
	return &schemas.EndpointSlice{Family: schemas.IPFamily(family), Ports: ports, Endpoints: list}
}

func ports[P any](list ...P) []P { return list }

func compiled(t *testing.T, facts ...*schemas.Fact) (Output, []state.SetAside) {
	t.Helper()
	db := state.New()
	if _, err := db.Apply(facts...); err != nil {
		t.Fatal(err)
	}
	out := Full(db.Snapshot(), ids.New(ids.DefaultQuarantine), Settings{})
	return out, out.SetAside
}

// Row 12: which endpoints, ports and families make a Service's rows, rule by rule.
// Trap 42: an endpoint in several slices counts at its best, once.
// Trap 43: a port's name has the number that each slice gives it.
func TestServiceRules(t *testing.T) {
	web := func(family ...string) *schemas.Fact {
		return serviceFact("web", &schemas.Service{ClusterIps: ips(family...), Ports: ports(port("http", model.TCP, 80))})
	}
	http := ports(target("http", model.TCP, 8080))
	frontends := []string{"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/web:80 v4", "set shop/web:80/TCP v4"}
	with := func(lines ...string) []string {
		all := slices.Concat(frontends, lines)
		slices.Sort(all)
		return all
	}

	for _, test := range []struct {
		name  string
		facts []*schemas.Fact
		want  []string
	}{
		{
			"without slices there is a frontend with an empty set, so that clients are refused",
			[]*schemas.Fact{web("10.96.0.1")},
			frontends,
		},
		{"a headless service has no rows", []*schemas.Fact{web()}, nil},
		{
			"a service of another proxy has no rows",
			[]*schemas.Fact{serviceFact("web", &schemas.Service{
				ClusterIps: ips("10.96.0.1"), Ports: ports(port("", model.TCP, 80)), ProxyName: "other",
			})},
			nil,
		},
		{
			"an ExternalName service has no rows",
			[]*schemas.Fact{serviceFact("web", &schemas.Service{
				ClusterIps: ips("10.96.0.1"), Ports: ports(port("", model.TCP, 80)), Type: "ExternalName",
			})},
			nil,
		},
		{"a slice of a service that doesn't exist has no rows", []*schemas.Fact{
			sliceFact("a", "missing", endpoints(model.IPv4, http, endpoint("10.1.0.1", "ready"))),
		}, nil},
		{
			"a slice that comes before its service is used",
			[]*schemas.Fact{
				sliceFact("a", "web", endpoints(model.IPv4, http, endpoint("10.1.0.1", "ready"))), web("10.96.0.1"),
			},
			with("shop/web:80/TCP 10.1.0.1:8080 active member"),
		},
		{
			"ready endpoints take connections, those that aren't take none",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, http,
					endpoint("10.1.0.1", "ready"), endpoint("10.1.0.2"), endpoint("10.1.0.3", "serving"))),
			},
			with("shop/web:80/TCP 10.1.0.1:8080 active member"),
		},
		{
			"a terminating endpoint keeps its connections and gets no new ones while one is ready",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, http,
					endpoint("10.1.0.1", "ready"), endpoint("10.1.0.2", "serving", "terminating"),
					endpoint("10.1.0.3", "terminating"))),
			},
			with("shop/web:80/TCP 10.1.0.1:8080 active member", "shop/web:80/TCP 10.1.0.2:8080 terminating kept",
				"shop/web:80/TCP 10.1.0.3:8080 terminating kept"),
		},
		{
			"without a ready endpoint those that terminate and serve take connections",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, http,
					endpoint("10.1.0.1"), endpoint("10.1.0.2", "serving", "terminating"), endpoint("10.1.0.3", "terminating"))),
			},
			[]string{
				frontends[0], frontends[1], "set shop/web:80/TCP v4 fallback",
				"shop/web:80/TCP 10.1.0.2:8080 terminating member", "shop/web:80/TCP 10.1.0.3:8080 terminating kept",
			},
		},
		{
			"an endpoint in several slices counts at its best, once",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, http, endpoint("10.1.0.1"), endpoint("10.1.0.2", "ready"))),
				sliceFact("b", "web", endpoints(model.IPv4, http, endpoint("10.1.0.1", "ready"), endpoint("10.1.0.2", "ready"))),
				sliceFact("0", "web", endpoints(model.IPv4, http, endpoint("10.1.0.1", "serving", "terminating"))),
			},
			with("shop/web:80/TCP 10.1.0.1:8080 active member", "shop/web:80/TCP 10.1.0.2:8080 active member"),
		},
		{
			"a named target port may differ from slice to slice",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, http, endpoint("10.1.0.1", "ready"))),
				sliceFact("b", "web", endpoints(model.IPv4, ports(target("http", model.TCP, 9090)), endpoint("10.1.0.2", "ready"))),
			},
			with("shop/web:80/TCP 10.1.0.1:8080 active member", "shop/web:80/TCP 10.1.0.2:9090 active member"),
		},
		{
			"a port of a slice serves by name and protocol, and not without a number",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, ports(
					target("http", model.UDP, 1), target("admin", model.TCP, 2), target("http", model.TCP, 0),
				), endpoint("10.1.0.1", "ready"))),
			},
			frontends,
		},
		{
			"ports given twice in a slice make one backend",
			[]*schemas.Fact{
				web("10.96.0.1"),
				sliceFact("a", "web", endpoints(model.IPv4, slices.Concat(http, http), endpoint("10.1.0.1", "ready"))),
			},
			with("shop/web:80/TCP 10.1.0.1:8080 active member"),
		},
		{
			"slices of the other family are not used",
			[]*schemas.Fact{
				web("10.96.0.1"), sliceFact("a", "web", endpoints(model.IPv6, http, endpoint("fd00::1", "ready"))),
			},
			frontends,
		},
		{
			"dual stack has a set for each family",
			[]*schemas.Fact{
				web("10.96.0.1", "fd96::1"),
				sliceFact("a", "web", endpoints(model.IPv4, http, endpoint("10.1.0.1", "ready"))),
				sliceFact("b", "web", endpoints(model.IPv6, http, endpoint("fd00::1", "ready"))),
			},
			with("fd96::1 (other ports) refused", "[fd96::1]:80/TCP -> shop/web:80 v6", "set shop/web:80/TCP v6",
				"shop/web:80/TCP 10.1.0.1:8080 active member", "shop/web:80/TCP [fd00::1]:8080 active member"),
		},
		{
			"ports of one service stand alone, the same number over TCP and UDP too; UDP keeps only what serves",
			[]*schemas.Fact{
				serviceFact("dns", &schemas.Service{ClusterIps: ips("10.96.0.10"), Ports: ports(
					port("dns", model.UDP, 53), port("dns-tcp", model.TCP, 53), port("metrics", model.TCP, 9153),
				)}),
				sliceFact("a", "dns", endpoints(model.IPv4, ports(target("dns", model.UDP, 1053), target("dns-tcp", model.TCP, 2053)),
					endpoint("10.1.0.1", "ready"), endpoint("10.1.0.2", "terminating"), endpoint("10.1.0.3", "serving", "terminating"))),
			},
			[]string{
				"10.96.0.10 (other ports) refused", "10.96.0.10:53/TCP -> shop/dns:53 v4", "10.96.0.10:53/UDP -> shop/dns:53 v4", "10.96.0.10:9153/TCP -> shop/dns:9153 v4",
				"set shop/dns:53/TCP v4", "set shop/dns:53/UDP v4", "set shop/dns:9153/TCP v4",
				"shop/dns:53/TCP 10.1.0.1:2053 active member", "shop/dns:53/TCP 10.1.0.2:2053 terminating kept",
				"shop/dns:53/TCP 10.1.0.3:2053 terminating kept",
				"shop/dns:53/UDP 10.1.0.1:1053 active member", "shop/dns:53/UDP 10.1.0.3:1053 terminating kept",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, aside := compiled(t, test.facts...)
			if diff := cmp.Diff(test.want, text(out.Layers[model.ClusterLayer], nil)); diff != "" {
				t.Errorf("cluster layer (-want +got):\n%s", diff)
			}
			if len(aside) > 0 {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

func TestOlderServiceKeepsAnAddressThatTwoClaim(t *testing.T) {
	claimant := func(name string, age time.Duration, addrs ...string) *schemas.Fact {
		return serviceFact(name, &schemas.Service{
			ClusterIps: ips(addrs...), Ports: ports(port("", model.TCP, 80)), Created: timestamppb.New(start.Add(-age)),
		})
	}
	out, aside := compiled(t, claimant("young", time.Hour, "10.96.0.1", "fd96::9"), claimant("old", 2*time.Hour, "10.96.0.1"))

	want := []string{
		"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/old:80 v4",
		"[fd96::9]:80/TCP -> shop/young:80 v6", "fd96::9 (other ports) refused", "set shop/old:80/TCP v4", "set shop/young:80/TCP v6",
	}
	if diff := cmp.Diff(want, text(out.Layers[model.ClusterLayer], nil)); diff != "" {
		t.Errorf("cluster layer (-want +got):\n%s", diff)
	}
	wantReason := "its address 10.96.0.1 belongs to Service shop/old, which is older: give one of them another address"
	if len(aside) != 1 || aside[0].Object.GetName() != "young" || aside[0].Reason != wantReason {
		t.Errorf("set aside %v, want young: %s", aside, wantReason)
	}
}

func TestServiceThatWouldTakeAllMemoryIsSetAside(t *testing.T) {
	many := &schemas.Service{ClusterIps: ips("10.96.0.1")}
	slice := endpoints(model.IPv4, nil)
	for i := range 300 {
		many.Ports = append(many.Ports, port(fmt.Sprint("p", i), model.TCP, uint32(i+1)))
		slice.Ports = append(slice.Ports, target(fmt.Sprint("p", i), model.TCP, uint32(i+1)))
	}
	for i := range 1000 {
		slice.Endpoints = append(slice.Endpoints, endpoint(fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), "ready"))
	}
	good := serviceFact("good", &schemas.Service{ClusterIps: ips("10.96.0.2"), Ports: ports(port("", model.TCP, 80))})
	out, aside := compiled(t, serviceFact("many", many), sliceFact("a", "many", slice), good)
	want := "its slices come to 300000 backends, endpoints times ports: at most 262144 are compiled, so it has no rows"
	if len(aside) != 1 || aside[0].Object.GetName() != "many" || aside[0].Reason != want {
		t.Errorf("set aside %v, want many: %s", aside, want)
	}
	if n := len(out.Layers[model.ClusterLayer].Sets); n != 1 {
		t.Errorf("%d sets, want that of the good service", n)
	}
}

func TestNodeHasTheAddressesOfItsPods(t *testing.T) {
	out, aside := compiled(t,
		podFact("a", &schemas.Pod{Node: "n1", Addresses: ips("10.1.0.1", "fd00::1")}),
		podFact("b", &schemas.Pod{Node: "n2", Addresses: ips("10.1.1.1")}),
		podFact("host", &schemas.Pod{Node: "n1", Addresses: ips("192.168.0.1"), HostNetwork: true}),
		podFact("done", &schemas.Pod{Node: "n1", Addresses: ips("10.1.0.9"), Finished: true}),
		podFact("pending", &schemas.Pod{Addresses: ips("10.1.0.8")}),
		podFact("late", &schemas.Pod{Node: "n2", Addresses: ips("10.1.1.1")}),
	)
	got := map[string][]string{}
	for layer, tables := range out.Layers {
		got[layer.String()] = text(tables, out.Layers[model.ClusterLayer])
	}
	want := map[string][]string{
		"cluster": nil,
		"node.n1": {"10.1.0.1 is shop/a", "fd00::1 is shop/a"},
		"node.n2": {"10.1.1.1 is shop/b"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	if len(aside) != 1 || aside[0].Object.GetName() != "late" {
		t.Errorf("set aside %v, want Pod late, which claims the address of b", aside)
	}
}

func TestCompareRemovesAMemberThatOnlyKeepsItsConnections(t *testing.T) {
	db, alloc := state.New(), ids.New(0)
	apply(t, db, serviceFact("web", &schemas.Service{ClusterIps: ips("10.96.0.1"), Ports: ports(port("", model.TCP, 80))}),
		sliceFact("a", "web", endpoints(model.IPv4, ports(target("", model.TCP, 8080)),
			endpoint("10.1.0.1", "ready"), endpoint("10.1.0.2", "terminating"))))
	layers := Full(db.Snapshot(), alloc, Settings{}).Layers
	rows := layers[model.ClusterLayer]
	for id, b := range rows.Backends {
		m := model.Member{Set: b.Set, Backend: id}
		rows.Members[m] = m
	}
	change := together(t, Compare(db.Snapshot(), alloc, policy.New(policy.Limits{}), Settings{}, layers))[model.ClusterLayer]
	if change == nil || len(change.Remove.Members) != 1 || change.Put.Len()+change.Remove.Len() != 1 {
		t.Errorf("the rows should change by %+v, want one member less", change)
	}
}

// Trap 41: an address that moves from one Service to another does so in one change.
func TestAddressMovesFromOneServiceToAnotherInOneChange(t *testing.T) {
	db, alloc := state.New(), ids.New(ids.DefaultQuarantine)
	web := func(name string) *schemas.Fact {
		return serviceFact(name, &schemas.Service{ClusterIps: ips("10.96.0.1"), Ports: ports(port("", model.TCP, 80))})
	}
	apply(t, db, web("a"))
	before := db.Snapshot()
	layers := Full(before, alloc, Settings{}).Layers
	work := apply(t, db, gone("Service", "a"), web("b"))
	change := together(t, update(before, db.Snapshot(), alloc, Settings{}, work))[model.ClusterLayer]
	if len(change.Remove.Frontends) != 0 || len(change.Put.Frontends) != 2 {
		t.Errorf("a frontend is both removed and put: %+v", change)
	}
	layers[model.ClusterLayer].Apply(change, model.Digest{})
	want := []string{"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/b:80 v4", "set shop/b:80/TCP v4"}
	if diff := cmp.Diff(want, text(layers[model.ClusterLayer], nil)); diff != "" {
		t.Errorf("cluster layer (-want +got):\n%s", diff)
	}
}

func apply(t testing.TB, db *state.DB, facts ...*schemas.Fact) Work {
	t.Helper()
	changes, err := db.Apply(facts...)
	if err != nil {
		t.Fatal(err)
	}
	return workOf(changes)
}

// workOf returns what changes make to be compiled again.
func workOf(changes state.Changes) (w Work) {
	for _, touch := range changes.Touched {
		w.Units = append(w.Units, Touched(&touch)...)
		w.add(&touch.Policy)
	}
	slices.SortFunc(w.Units, Unit.Compare)
	w.Units = slices.Compact(w.Units)
	return w
}

func (w *Work) add(changed *state.Policed) {
	w.Policy.Pods = append(w.Policy.Pods, changed.Pods...)
	w.Policy.Nodes = append(w.Policy.Nodes, changed.Nodes...)
	w.Policy.Namespaces = append(w.Policy.Namespaces, changed.Namespaces...)
	w.Policy.Policies = append(w.Policy.Policies, changed.Policies...)
}

// update compiles what changed, with an engine that knows the policies of the state before.
func update(before, after *state.Snapshot, alloc *ids.Allocator, settings Settings, work Work) Difference {
	engine := policy.New(settings.Policy)
	engine.Load(before, nil)
	return Update(before, after, alloc, engine, settings, work)
}

// together returns the only stage of a difference, or none.
func together(t testing.TB, d Difference) Stage {
	t.Helper()
	switch len(d.Stages) {
	case 0:
		return nil
	case 1:
		return d.Stages[0]
	}
	t.Fatalf("%d stages, want one", len(d.Stages))
	return nil
}
