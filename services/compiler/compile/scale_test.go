// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// many returns a state of so many Services behind one load balancer's address, each with a port of its own on it and a NodePort.
func many(t testing.TB, services int) *state.DB {
	t.Helper()
	db := state.New()
	facts := make([]*schemas.Fact, 0, 2*services)
	for i := range services {
		facts = append(facts, numberedService(i), pair(i, 2))
	}
	if _, err := db.Apply(facts...); err != nil {
		t.Fatal(err)
	}
	return db
}

// pair is the slice of a numbered Service, with so many endpoints.
func pair(i, count int) *schemas.Fact {
	m := endpoints(model.IPv4, ports(target("http", model.TCP, 8080)))
	for e := range count {
		m.Endpoints = append(m.Endpoints, &schemas.SliceEndpoint{
			Address: []byte{byte(11 + i>>16), byte(i >> 8), byte(i), byte(e)}, Ready: true, Serving: true, Node: fmt.Sprint("n", i%5000),
		})
	}
	return sliceFact(fmt.Sprintf("s%05d-a", i), fmt.Sprintf("s%05d", i), m)
}

func numberedService(i int) *schemas.Fact {
	return web(fmt.Sprintf("s%05d", i), func(s *schemas.Service) {
		s.Type, s.ClusterIps = "LoadBalancer", [][]byte{{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}}
		s.LoadBalancerIps = [][]byte{{192, 0, 2, byte(1 + i>>15)}}
		s.Ports[0].Port, s.Ports[0].NodePort = uint32(1+i&0x7fff), uint32(1+i&0x7fff)
		if i >= 1<<15 {
			s.Ports[0].NodePort = 0
		}
	})
}

// Test70000Services compiles more Services and frontends than 16 bits can count, wholly and then one of them.
//
// Row 23: more Services and frontends are compiled than 16 bits can count.
func Test70000Services(t *testing.T) {
	const services = 70_000
	db, alloc := many(t, services), ids.New(ids.DefaultQuarantine)
	begun := time.Now()
	out := Full(db.Snapshot(), alloc, Settings{})
	t.Logf("%d Services, %d rows: %s", services, out.Layers[model.ClusterLayer].Len(), time.Since(begun))
	cluster := out.Layers[model.ClusterLayer]
	if want := 3*services + 1<<15; len(cluster.Frontends) != want || len(cluster.Sets) != services || len(cluster.Backends) != 2*services {
		t.Errorf("%d frontends, %d sets, %d backends; want %d, %d, %d",
			len(cluster.Frontends), len(cluster.Sets), len(cluster.Backends), want, services, 2*services)
	}
	if len(out.SetAside) > 0 {
		t.Errorf("%d objects set aside, the first: %v", len(out.SetAside), out.SetAside[0])
	}
	before := db.Snapshot()
	work := apply(t, db, pair(42, 3))
	d := update(before, db.Snapshot(), alloc, Settings{}, work)
	if c := together(t, d)[model.ClusterLayer]; d.Units != 1 || c.Put.Len()+c.Remove.Len() != 2 {
		t.Errorf("one endpoint more compiles %d units and changes %+v, want 1 unit and 2 rows", d.Units, c)
	}
}

// TestUnitsOfAChange is the budget of units that a change compiles, in a cluster of 1,000 Services that share addresses.
func TestUnitsOfAChange(t *testing.T) {
	db := many(t, 1000)
	for i := range 100 {
		apply(t, db, nodeFact(fmt.Sprint("n", i), &schemas.Node{Zone: "z1", PodCidrs: []string{fmt.Sprintf("10.1.%d.0/24", i)}}))
	}
	edited := func(i int, edit func(*schemas.Service)) *schemas.Fact {
		f := numberedService(i)
		edit(f.GetService())
		return f
	}
	draining := nodeFact("n1", &schemas.Node{Zone: "z1", PodCidrs: []string{"10.1.1.0/24"}, Draining: true})
	for _, test := range []struct {
		name string
		fact *schemas.Fact
		want int
	}{
		{"a slice", pair(42, 3), 1},
		{"a Service's policy", edited(42, local), 1},
		{"a Service's affinity", edited(42, func(s *schemas.Service) { s.AffinitySeconds = 60 }), 1},
		{"a Service's source ranges", edited(42, ranges("203.0.113.0/24")), 1},
		{"a Service's port on a shared address", edited(43, func(s *schemas.Service) { s.Ports[0].Port = 40_000 }), 1},
		{"a NodePort that another has", edited(44, func(s *schemas.Service) { s.Ports[0].NodePort = 46 }), 2},
		{"a new Service on a shared address", numberedService(2000), 1},
		{"a pod", hostPod("a", "n1", []string{"10.1.1.1"}, hostPort(model.TCP, 80, 80, "")), 1},
		{"a pod with a hostPort at a shared address", hostPod("a", "n1", []string{"10.1.1.1"}, hostPort(model.TCP, 8080, 80, "192.0.2.1")), 1},
		{"a node's draining", draining, 1},
		{"a node's zone", nodeFact("n2", &schemas.Node{Zone: "z2", PodCidrs: []string{"10.1.2.0/24"}}), 1},
		{"a new node with a prefix", nodeFact("n100", &schemas.Node{Zone: "z1", PodCidrs: []string{"10.1.100.0/24"}}), 3},
		{"a node's address", nodeFact("n3", &schemas.Node{Zone: "z1", PodCidrs: []string{"10.1.3.0/24"}, InternalIps: ips("192.168.0.3")}), 1},
		{"how a Service is forwarded", edited(42, forwarding("dsr")), 1},
		{"a prefix of the cluster", clusterFact("cluster", nil, []string{"10.96.0.0/12"}), 1},
	} {
		if units := apply(t, db, test.fact).Units; len(units) != test.want {
			t.Errorf("%s compiles %d units, the budget is %d: %v", test.name, len(units), test.want, units)
		}
	}
}

// TestServiceOf10000Endpoints has policies and hints, so that each endpoint is in two layers.
//
// Row 23: one Service has 10,000 endpoints.
func TestServiceOf10000Endpoints(t *testing.T) {
	const nodes, each = 500, 20
	db, alloc := state.New(), ids.New(ids.DefaultQuarantine)
	apply(t, db, web("web", internalLocal))
	slice := func(i, more int) *schemas.Fact { // 100 endpoints on 5 nodes
		m := endpoints(model.IPv4, ports(target("http", model.TCP, 8080)))
		for e := i * 100; e < (i+1)*100+more; e++ {
			node := fmt.Sprint("n", e/each)
			m.Endpoints = append(m.Endpoints, &schemas.SliceEndpoint{
				Address: []byte{10, 1, byte(e >> 8), byte(e)}, Ready: true, Serving: true, Node: node, NodeHints: []string{node},
				ZoneHints: []string{fmt.Sprint("z", e%3)},
			})
		}
		return sliceFact(fmt.Sprint("web-", i), "web", m)
	}
	for i := range nodes * each / 100 {
		apply(t, db, slice(i, 0))
	}
	before := db.Snapshot()
	begun := time.Now()
	out := Full(before, alloc, Settings{})
	t.Logf("compiled in %s", time.Since(begun))
	if got := len(out.Layers); got != nodes+1 {
		t.Errorf("%d layers, want that of the cluster and of %d nodes", got, nodes)
	}
	if got := len(out.Layers[model.ClusterLayer].Members); got != 2*nodes*each {
		t.Errorf("%d members in the cluster's layer, want each endpoint in the root and in its zone", got)
	}
	work := apply(t, db, slice(99, 1))
	begun = time.Now()
	changes := together(t, update(before, db.Snapshot(), alloc, Settings{}, work))
	t.Logf("one endpoint more in %s", time.Since(begun))
	rows := 0
	for _, c := range changes {
		rows += c.Put.Len() + c.Remove.Len()
	}
	// In the cluster's layer a backend in two sets; on its new node a backend in two sets, each with a view.
	if len(changes) != 2 || rows != 3+1+2*3 {
		t.Errorf("one endpoint more changes %d rows in %d layers, want 10 in 2", rows, len(changes))
	}
}

func Benchmark70000Services(b *testing.B) {
	snap := many(b, 70_000).Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		Full(snap, ids.New(time.Minute), Settings{})
	}
}
