// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

func ip(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

func ref(kind, name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: kind, Namespace: "shop", Name: name}
}

func service(name string, addr []byte, ports ...*schemas.ServicePort) *schemas.Fact {
	return &schemas.Fact{Object: ref(KindService, name), State: &schemas.Fact_Service{Service: &schemas.Service{
		ClusterIps: [][]byte{addr}, Ports: ports,
	}}}
}

func slice(name, service string, endpoints ...*schemas.SliceEndpoint) *schemas.Fact {
	return &schemas.Fact{Object: ref(KindEndpointSlice, name), State: &schemas.Fact_EndpointSlice{
		EndpointSlice: &schemas.EndpointSlice{Service: service, Family: 4, Endpoints: endpoints},
	}}
}

func pod(name, node string, addrs ...string) *schemas.Fact {
	p := &schemas.Pod{Node: node}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, ip(a))
	}
	return &schemas.Fact{Object: ref(KindPod, name), State: &schemas.Fact_Pod{Pod: p}}
}

func apply(t testing.TB, db *DB, facts ...*schemas.Fact) Changes {
	t.Helper()
	changes, err := db.Apply(facts...)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func touched(c Changes) (units []string) {
	for _, touch := range c.Touched {
		for _, name := range touch.Services {
			units = append(units, "service "+name.String())
		}
		for _, node := range touch.Nodes {
			units = append(units, "node "+node)
		}
		for _, prefix := range touch.Networks {
			units = append(units, "network "+prefix.String())
		}
	}
	return units
}

func TestWhatAFactTouches(t *testing.T) {
	db := New()
	relabelled := pod("a", "n1", "10.1.0.1")
	relabelled.GetPod().Labels = map[string]string{"app": "web"}
	hosted := pod("h", "n1", "192.168.0.1")
	hosted.GetPod().HostNetwork = true
	for _, test := range []struct {
		name string
		fact *schemas.Fact
		want []string
	}{
		{"a new service touches itself", service("web", ip("10.96.0.1")), []string{"service shop/web"}},
		{"the same again touches nothing", service("web", ip("10.96.0.1")), nil},
		{"a claim to the same address touches the rival", service("api", ip("10.96.0.1")), []string{"service shop/api", "service shop/web"}},
		{"giving up a claim touches the rival", service("api", ip("10.96.0.2")), []string{"service shop/api", "service shop/web"}},
		{"a slice touches its service, though that may not exist", slice("s", "later"), []string{"service shop/later"}},
		{"a slice that changes owners touches both", slice("s", "web"), []string{"service shop/later", "service shop/web"}},
		{"a slice of no service touches nothing", slice("orphan", ""), nil},
		{"a deleted slice touches its service", &schemas.Fact{Object: ref(KindEndpointSlice, "s")}, []string{"service shop/web"}},
		{"deleted again touches nothing", &schemas.Fact{Object: ref(KindEndpointSlice, "s")}, nil},
		{"a pod touches its node", pod("a", "n1", "10.1.0.1"), []string{"node n1"}},
		{"a pod's new labels touch no unit", relabelled, nil},
		{"a pod that moves touches both nodes", pod("a", "n2", "10.1.0.1"), []string{"node n1", "node n2"}},
		{"a pod without a node touches nothing", pod("p", "", "10.1.0.2"), nil},
		{"a pod in the host's network touches nothing", hosted, nil},
	} {
		if diff := cmp.Diff(test.want, touched(apply(t, db, test.fact))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// claiming is a Service with a NodePort, and 192.0.2.1 as its load balancer's address.
func claiming(name, addr string, port, nodePort uint32) *schemas.Fact {
	f := service(name, ip(addr), &schemas.ServicePort{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: port, NodePort: nodePort})
	f.GetService().LoadBalancerIps = [][]byte{ip("192.0.2.1")}
	return f
}

// TestWhoClaimsTheSameIsTouched holds Services to touch those, and only those, that claim what comes or goes.
func TestWhoClaimsTheSameIsTouched(t *testing.T) {
	db := New()
	affine := claiming("web", "10.96.0.1", 80, 30001)
	affine.GetService().AffinitySeconds = 10
	older := claiming("web", "10.96.0.1", 80, 30001)
	older.GetService().AffinitySeconds, older.GetService().Created = 10, timestamppb.New(time.Unix(1, 0))
	mesh := claiming("web", "10.96.0.1", 80, 30001)
	mesh.GetService().ProxyName = "mesh"
	hosted := pod("h", "n1", "10.1.0.1")
	hosted.GetPod().HostPorts = []*schemas.HostPort{{Protocol: 6, HostPort: 80, ContainerPort: 80, HostIp: ip("192.0.2.1")}}
	checked := claiming("checked", "10.96.0.5", 90, 0)
	checked.GetService().Type, checked.GetService().ExternalLocal, checked.GetService().HealthCheckNodePort = "LoadBalancer", true, 32000
	checkedToo := claiming("checked-too", "10.96.0.6", 91, 0)
	checkedToo.GetService().Type, checkedToo.GetService().ExternalLocal, checkedToo.GetService().HealthCheckNodePort = "LoadBalancer", true, 32000
	for _, test := range []struct {
		name string
		fact *schemas.Fact
		want []string
	}{
		{"the first claimant", claiming("web", "10.96.0.1", 80, 30001), []string{"service shop/web"}},
		{"another port of the same address is another claim", claiming("tls", "10.96.0.2", 443, 0), []string{"service shop/tls"}},
		{"the same port of it", claiming("rival", "10.96.0.3", 80, 0), []string{"service shop/rival", "service shop/web"}},
		{"the same NodePort", claiming("node", "10.96.0.4", 81, 30001), []string{"service shop/node", "service shop/web"}},
		{"a pod with the address and port as a hostPort", hosted, []string{"node n1"}},
		{"a change that claims nothing", affine, []string{"service shop/web"}},
		{"an age tells whose claims win", older, []string{"service shop/node", "service shop/rival", "service shop/web", "node n1"}},
		{"claims that go with another proxy", mesh, []string{"service shop/node", "service shop/rival", "service shop/web", "node n1"}},
		{"a health check port", checked, []string{"service shop/checked"}},
		{"the same health check port", checkedToo, []string{"service shop/checked", "service shop/checked-too"}},
		{
			"a cluster address that others use as an external one", service("thief", ip("192.0.2.1")),
			[]string{"service shop/checked", "service shop/checked-too", "service shop/node", "service shop/rival", "service shop/thief", "service shop/tls", "node n1"},
		},
	} {
		if diff := cmp.Diff(test.want, touched(apply(t, db, test.fact))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func node(name, zone string, cidrs ...string) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: KindNode, Name: name},
		State:  &schemas.Fact_Node{Node: &schemas.Node{Zone: zone, PodCidrs: cidrs}},
	}
}

func TestWhatANodeTouches(t *testing.T) {
	db := New()
	draining := node("n1", "z2", "10.1.0.0/24")
	draining.GetNode().Draining = true
	addressed := node("n1", "z2", "10.1.0.0/24")
	addressed.GetNode().Draining, addressed.GetNode().Addresses = true, [][]byte{ip("192.0.2.9")}
	found := func(pods, services string) *schemas.Fact {
		return &schemas.Fact{Object: &schemas.ObjectRef{Kind: KindCluster, Name: "cluster"}, State: &schemas.Fact_Cluster{Cluster: &schemas.Cluster{
			PodCidrs: []*schemas.Found{{Value: pods}}, ServiceCidrs: []*schemas.Found{{Value: services}},
		}}}
	}
	for _, test := range []struct {
		name string
		fact *schemas.Fact
		want []string
	}{
		{"a new node touches itself and its pods' prefix", node("n1", "z1", "10.1.0.0/24"), []string{"node n1", "network 10.1.0.0/24"}},
		{"a new zone touches the node", node("n1", "z2", "10.1.0.0/24"), []string{"node n1"}},
		{"that it is draining too", draining, []string{"node n1"}},
		{"its addresses touch nothing: it knows them itself", addressed, nil},
		{"another prefix touches both", node("n1", "z2", "10.1.1.0/24"), []string{"node n1", "network 10.1.0.0/24", "network 10.1.1.0/24"}},
		{"a node that goes", &schemas.Fact{Object: node("n1", "").Object}, []string{"node n1", "network 10.1.1.0/24"}},
		{"what is found about the cluster", found("10.2.0.0/16", "10.3.0.0/16"), []string{"network 10.2.0.0/16", "network 10.3.0.0/16"}},
		{"prefixes that change places", found("10.3.0.0/16", "10.2.0.0/16"), []string{"network 10.2.0.0/16", "network 10.3.0.0/16"}},
	} {
		if diff := cmp.Diff(test.want, touched(apply(t, db, test.fact))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestTouchNamesItsCause(t *testing.T) {
	trigger := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	fact := service("web", ip("10.96.0.1"))
	fact.Object.Uid, fact.Object.ResourceVersion, fact.Manager, fact.TriggerTime = "u1", "42", "kubectl", timestamppb.New(trigger)
	want := model.Cause{
		Kind: KindService, Namespace: "shop", Name: "web", UID: "u1", ResourceVersion: "42", Manager: "kubectl", Trigger: trigger,
	}
	if diff := cmp.Diff(want, apply(t, New(), fact).Touched[0].Cause); diff != "" {
		t.Errorf("cause (-want +got):\n%s", diff)
	}
}

func TestUnknownTriggerStaysUnknown(t *testing.T) {
	if got := apply(t, New(), service("web", ip("10.96.0.1"))).Touched[0].Cause.Trigger; !got.IsZero() {
		t.Errorf("without a trigger the cause was triggered at %s", got)
	}
}

func TestInvalidObjectsAreSetAsideByName(t *testing.T) {
	tcp := func(name string, number uint32) *schemas.ServicePort {
		return &schemas.ServicePort{Name: name, Protocol: schemas.Protocol_PROTOCOL_TCP, Port: number}
	}
	mixed := slice("bad", "web", &schemas.SliceEndpoint{Address: ip("fd00::1")})
	familyless := slice("bad", "web", &schemas.SliceEndpoint{Address: ip("10.1.0.1")})
	familyless.GetEndpointSlice().Family = 0
	wideport := slice("bad", "web")
	wideport.GetEndpointSlice().Ports = []*schemas.EndpointPort{{Protocol: 6, Port: 70000}}
	confused := service("bad", ip("10.96.0.1"))
	confused.State = &schemas.Fact_Pod{Pod: &schemas.Pod{}}
	long := service(strings.Repeat("x", 64), ip("10.96.0.1"))
	nameless := service("", ip("10.96.0.1"))
	nowhere := service("bad", ip("10.96.0.1"))
	nowhere.Object.Namespace = ""
	sticky, unhealthy, narrow := service("bad", ip("10.96.0.1")), service("bad", ip("10.96.0.1")), service("bad", ip("10.96.0.1"))
	sticky.GetService().AffinitySeconds = 86401
	unhealthy.GetService().HealthCheckNodePort = 70000
	narrow.GetService().SourceRanges = make([]string, 2000)
	nodePort := func(name string, number uint32) *schemas.ServicePort {
		return &schemas.ServicePort{Name: name, Protocol: schemas.Protocol_PROTOCOL_TCP, Port: number, NodePort: 30001}
	}
	future := &schemas.Fact{Object: ref("Gateway", "bad"), State: &schemas.Fact_Pod{}}

	for _, test := range []struct {
		name, want string
		fact       *schemas.Fact
	}{
		{"address of a wrong length", "clusterIPs[0]: an address of 3 bytes: want 4 or 16", service("bad", []byte{1, 2, 3})},
		{"unspecified address", "clusterIPs[0]: address 0.0.0.0 names no single host", service("bad", ip("0.0.0.0"))},
		{"port 0", "ports[0]: 0 is no port", service("bad", ip("10.96.0.1"), tcp("", 0))},
		{"port 70000", "ports[0]: port 70000: want 1 to 65535", service("bad", ip("10.96.0.1"), tcp("", 70000))},
		{"unknown protocol", "ports[0]: protocol 1: want TCP (6), UDP (17) or SCTP (132)", service("bad", ip("10.96.0.1"), &schemas.ServicePort{Protocol: 1, Port: 1})},
		{"protocol that looks known in 8 bits", "ports[0]: protocol 262: want TCP (6), UDP (17) or SCTP (132)", service("bad", ip("10.96.0.1"), &schemas.ServicePort{Protocol: 262, Port: 1})},
		{"port twice", "ports[1]: a second port 80/TCP", service("bad", ip("10.96.0.1"), tcp("a", 80), tcp("b", 80))},
		{"port name twice", `ports[1]: a second port with the name "a"`, service("bad", ip("10.96.0.1"), tcp("a", 80), tcp("a", 81))},
		{"family mismatch", "endpoints[0]: address fd00::1 is not IPv4, the family of the slice", mixed},
		{"no family", "address family 0: want IPv4 or IPv6", familyless},
		{"slice with port 70000", "ports[0]: port 70000: want 1 to 65535", wideport},
		{"loopback endpoint", "endpoints[0]: address 127.0.0.1 means another host on every node", slice("bad", "web", &schemas.SliceEndpoint{Address: ip("127.0.0.1")})},
		{"10,000 endpoints", "it has 10000 endpoints: Kubernetes allows 1000 in one EndpointSlice, use more slices", slice("bad", "web", make([]*schemas.SliceEndpoint, 10000)...)},
		{"affinity of more than a day", "session affinity of 86401 s: Kubernetes allows 86400", sticky},
		{"nodePort 70000", "ports[0]: nodePort 70000: want 1 to 65535", service("bad", ip("10.96.0.1"), &schemas.ServicePort{Protocol: 6, Port: 1, NodePort: 70000})},
		{"nodePort twice", "ports[1]: a second nodePort 30001/TCP", service("bad", ip("10.96.0.1"), nodePort("a", 80), nodePort("b", 81))},
		{"healthCheckNodePort 70000", "healthCheckNodePort 70000: want 1 to 65535", unhealthy},
		{"too many source ranges", "it has 2000 loadBalancerSourceRanges: the bound is 1024, join some", narrow},
		{"endpoint on a node that can't be", `endpoints[0]: its node: the name "a/b" is none that Kubernetes allows`, slice("bad", "web", &schemas.SliceEndpoint{Address: ip("10.1.0.1"), Node: "a/b"})},
		{"hint for a node that can't be", `endpoints[0]: its hint: the name "a/b" is none that Kubernetes allows`, slice("bad", "web", &schemas.SliceEndpoint{Address: ip("10.1.0.1"), NodeHints: []string{"a/b"}})},
		{"hint for a zone that can't be", `endpoints[0]: its hint "a\x00b" names no zone`, slice("bad", "web", &schemas.SliceEndpoint{Address: ip("10.1.0.1"), ZoneHints: []string{"a\x00b"}})},
		{"nine hints", "endpoints[0]: it has hints for more than 8 zones or nodes", slice("bad", "web", &schemas.SliceEndpoint{Address: ip("10.1.0.1"), ZoneHints: make([]string, 9)})},
		{"fact of another kind", "its fact holds a *schemas.Fact_Pod", confused},
		{"name too long", "its name has 64 bytes: Kubernetes allows 63", long},
		{"no name", "it has no name", nameless},
		{"no namespace", "it has no namespace", nowhere},
		{"name with a newline", `the name "shop/a\nb" is none that Kubernetes allows`, pod("a\nb", "n1")},
		{"node with a NUL", `its node: the name "n\x00" is none that Kubernetes allows`, pod("bad", "n\x00")},
		{"kind of a newer watcher", `kind "Gateway" is none that this compiler knows: is the watcher newer?`, future},
	} {
		t.Run(test.name, func(t *testing.T) {
			db := New()
			changes := apply(t, db, service("good", ip("10.96.0.9")), test.fact)
			aside := slices.Collect(db.Snapshot().SetAside())
			if len(aside) != 1 || aside[0].Reason != test.want || len(changes.SetAside) != 1 {
				t.Fatalf("set aside %v, want %q", aside, test.want)
			}
			if _, found := db.Snapshot().Service(Name{"shop", "good"}); !found {
				t.Error("the good service is gone too")
			}
			if again := apply(t, db, test.fact); len(again.SetAside) != 0 {
				t.Error("the same bad fact is news the second time")
			}
			absent := &schemas.Fact{Object: test.fact.Object}
			apply(t, db, absent)
			if left := slices.Collect(db.Snapshot().SetAside()); len(left) != 0 {
				t.Errorf("the object is gone, but still set aside: %v", left)
			}
		})
	}
}

func TestObjectThatBecomesInvalidIsAbsentUntilItIsValidAgain(t *testing.T) {
	db := New()
	apply(t, db, service("web", ip("10.96.0.1")))
	bad := apply(t, db, service("web", []byte{1}))
	if _, found := db.Snapshot().Service(Name{"shop", "web"}); found || len(bad.Touched) != 1 {
		t.Errorf("found %v, touched %v; want an absent service and one touch", found, bad.Touched)
	}
	apply(t, db, service("web", ip("10.96.0.1")))
	if _, found := db.Snapshot().Service(Name{"shop", "web"}); !found {
		t.Error("valid again, but not found")
	}
	if aside := slices.Collect(db.Snapshot().SetAside()); len(aside) != 0 {
		t.Errorf("valid again, but set aside: %v", aside)
	}
}

func TestFactWithoutAnObjectIsRefusedAndOthersAreApplied(t *testing.T) {
	db := New()
	_, err := db.Apply(&schemas.Fact{}, service("web", ip("10.96.0.1")))
	if want := "fact 1 of 2 names no object: it is ignored"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, found := db.Snapshot().Service(Name{"shop", "web"}); !found {
		t.Error("the other fact wasn't applied")
	}
}

func TestSnapshotNeverChanges(t *testing.T) {
	db := New()
	apply(t, db, service("web", ip("10.96.0.1")))
	before := db.Snapshot()
	apply(t, db, &schemas.Fact{Object: ref(KindService, "web")})
	if _, found := before.Service(Name{"shop", "web"}); !found {
		t.Error("a deletion reached an older snapshot")
	}
}

func TestCompletenessIsNotForgotten(t *testing.T) {
	db := New()
	if db.Snapshot().Complete() {
		t.Fatal("an empty state is complete")
	}
	object := &schemas.ObjectRef{Kind: KindComplete, Name: "watcher"}
	first := apply(t, db, &schemas.Fact{Object: object, State: &schemas.Fact_Complete{Complete: &schemas.Complete{}}})
	apply(t, db, &schemas.Fact{Object: object})
	if !first.Completed || !db.Snapshot().Complete() {
		t.Errorf("completed %v, complete %v; want both", first.Completed, db.Snapshot().Complete())
	}
}

func TestPackedEndpointsReadAsTheyCame(t *testing.T) {
	for _, family := range []model.Family{model.IPv4, model.IPv6} {
		var want []Endpoint
		pack := newPacker(2, family)
		for i, addr := range map[model.Family][]string{model.IPv4: {"10.0.0.1", "10.0.0.2"}, model.IPv6: {"fd00::1", "fd00::2"}}[family] {
			e := Endpoint{
				Addr: netip.MustParseAddr(addr), Ready: i == 0, Serving: true, Terminating: i == 1, Node: fmt.Sprint("n", i), Zone: "z",
				Number: model.NodeIDOf(fmt.Sprint("n", i)),
				Hints:  &Hints{Zones: []string{"z", "z2"}[:i+1], Nodes: [][]string{nil, {"n"}}[i]},
			}
			want = append(want, e)
			pack.add(e)
		}
		s := &Slice{Family: family, packed: string(pack.packed), names: pack.names, hints: pack.hints}
		if diff := cmp.Diff(want, slices.Collect(s.Endpoints()), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("IPv%d (-want +got):\n%s", family, diff)
		}
	}
}

// bulk returns facts of a cluster: services, each with slices of 100 endpoints on that many nodes.
func bulk(serviceCount, slicesEach int) []*schemas.Fact {
	var facts []*schemas.Fact
	for i := range serviceCount {
		name := fmt.Sprintf("s%05d", i)
		facts = append(facts, service(name, []byte{10, 96, byte(i >> 8), byte(i)}))
		for j := range slicesEach {
			m := slice(fmt.Sprintf("%s-%d", name, j), name)
			for k := range 100 {
				n := i*slicesEach*100 + j*100 + k
				m.GetEndpointSlice().Endpoints = append(m.GetEndpointSlice().Endpoints, &schemas.SliceEndpoint{
					Address: []byte{10, byte(n >> 16), byte(n >> 8), byte(n)}, Ready: true, Serving: true,
					Node: fmt.Sprint("node-", n%5000), Zone: fmt.Sprint("zone-", n%3),
				})
			}
			facts = append(facts, m)
		}
	}
	return facts
}

// TestAnEndpointTakesFewBytes holds state to 48 bytes an endpoint, all told: the aim is 1 GB at 1 M endpoints.
func TestAnEndpointTakesFewBytes(t *testing.T) {
	const endpoints = 200_000
	db, facts := New(), bulk(200, endpoints/200/100)
	before := heap()
	apply(t, db, facts...)
	each := (float64(heap()) - float64(before)) / endpoints
	t.Logf("%.1f bytes an endpoint", each)
	if each > 48 {
		t.Errorf("an endpoint takes %.1f bytes, the budget is 48", each)
	}
	runtime.KeepAlive(facts)
	runtime.KeepAlive(db)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkApplyOneSliceAmong10000Services(b *testing.B) {
	db := New()
	if _, err := db.Apply(bulk(10_000, 1)...); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		fact := slice("s00042-0", "s00042", &schemas.SliceEndpoint{Address: []byte{10, 1, byte(n >> 8), byte(n)}, Ready: true})
		if _, err := db.Apply(fact); err != nil {
			b.Fatal(err)
		}
	}
}
