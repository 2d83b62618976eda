// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/ids"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// web is a Service with port 80, changed by edits.
func web(name string, edits ...func(*schemas.Service)) *schemas.Fact {
	s := &schemas.Service{
		Type: "ClusterIP", ClusterIps: ips("10.96.0.1"), Ports: ports(port("http", model.TCP, 80)), Created: timestamppb.New(start),
	}
	for _, edit := range edits {
		edit(s)
	}
	return serviceFact(name, s)
}

func clusterIPs(addrs ...string) func(*schemas.Service) {
	return func(s *schemas.Service) { s.ClusterIps = ips(addrs...) }
}

func nodePort(number uint32) func(*schemas.Service) {
	return func(s *schemas.Service) { s.Type, s.Ports[0].NodePort = "NodePort", number }
}

func external(addrs ...string) func(*schemas.Service) {
	return func(s *schemas.Service) { s.ExternalIps = ips(addrs...) }
}

func balancer(addrs ...string) func(*schemas.Service) {
	return func(s *schemas.Service) { s.Type, s.LoadBalancerIps = "LoadBalancer", ips(addrs...) }
}

func ranges(texts ...string) func(*schemas.Service) {
	return func(s *schemas.Service) { s.SourceRanges = texts }
}

func serving(number uint32, protocol model.Protocol) func(*schemas.Service) {
	return func(s *schemas.Service) {
		s.Ports[0].Port, s.Ports[0].Protocol = number, schemas.Protocol(protocol)
	}
}

func local(s *schemas.Service)         { s.ExternalLocal = true }
func internalLocal(s *schemas.Service) { s.InternalLocal = true }

func healthPort(number uint32) func(*schemas.Service) {
	return func(s *schemas.Service) {
		s.Type, s.ExternalLocal, s.HealthCheckNodePort = "LoadBalancer", true, number
	}
}

func aged(hours int) func(*schemas.Service) {
	return func(s *schemas.Service) { s.Created = timestamppb.New(start.Add(-time.Duration(hours) * time.Hour)) }
}

var anyExternal = Settings{AllowExternalIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}

func reasons(out Output) (list []string) {
	for _, s := range out.SetAside {
		list = append(list, s.Object.GetKind()+" "+s.Object.GetName()+": "+s.Reason)
	}
	slices.Sort(list)
	return list
}

func TestFrontends(t *testing.T) {
	refused := "10.96.0.1 (other ports) refused"
	cluster := "10.96.0.1:80/TCP -> shop/web:80 v4"
	for _, test := range []struct {
		name  string
		facts []*schemas.Fact
		want  []string
		aside []string
	}{
		{
			"a cluster address refuses its other ports",
			ports(web("web")),
			[]string{refused, cluster},
			nil,
		},
		{
			"a NodePort has one row in each family that the Service has",
			ports(web("web", clusterIPs("10.96.0.1", "fd96::1"), nodePort(30080))),
			[]string{
				refused, cluster, "[fd96::1]:80/TCP -> shop/web:80 v6", "fd96::1 (other ports) refused",
				"node4:30080/TCP -> shop/web:80 v4 node-port", "node6:30080/TCP -> shop/web:80 v6 node-port",
			},
			nil,
		},
		{
			"internalTrafficPolicy is about the cluster address, externalTrafficPolicy about all others",
			ports(web("web", nodePort(30080), external("192.0.2.1"), balancer("192.0.2.2"), local, internalLocal)),
			[]string{
				refused, cluster + " internal-local", "192.0.2.1:80/TCP -> shop/web:80 v4 external external-local",
				"192.0.2.2:80/TCP -> shop/web:80 v4 load-balancer external-local", "node4:30080/TCP -> shop/web:80 v4 node-port external-local",
			},
			nil,
		},
		{
			"a NodePort that two claim is the older Service's, which the other is told; all else of it works",
			ports(web("web", nodePort(30080)), web("late", clusterIPs("10.96.0.2"), nodePort(30080), aged(-1))),
			[]string{
				refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:80/TCP -> shop/late:80 v4",
				"node4:30080/TCP -> shop/web:80 v4 node-port",
			},
			[]string{"Service late: its NodePort 30080/TCP belongs to Service shop/web, which is older: give one of them another port"},
		},
		{
			"a NodePort over TCP and the same over UDP are two",
			ports(web("web", nodePort(30080)), web("dns", clusterIPs("10.96.0.2"), nodePort(30080), serving(53, model.UDP))),
			[]string{
				refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:53/UDP -> shop/dns:53 v4",
				"node4:30080/TCP -> shop/web:80 v4 node-port", "node4:30080/UDP -> shop/dns:53 v4 node-port",
			},
			nil,
		},
		{
			"an external address that isn't allowed is named with what to do",
			ports(web("web", external("198.51.100.1", "192.0.2.1"))),
			[]string{refused, cluster, "192.0.2.1:80/TCP -> shop/web:80 v4 external"},
			[]string{"Service web: its external address 198.51.100.1 is not used: it is in no range of --allow-external-ips; add one, or leave the address out"},
		},
		{
			"an older Service whose external address isn't allowed takes nothing from a load balancer",
			ports(web("old", clusterIPs("10.96.0.2"), external("198.51.100.1"), aged(9)), web("web", balancer("198.51.100.1"))),
			[]string{refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:80/TCP -> shop/old:80 v4", "198.51.100.1:80/TCP -> shop/web:80 v4 load-balancer"},
			[]string{"Service old: its external address 198.51.100.1 is not used: it is in no range of --allow-external-ips; add one, or leave the address out"},
		},
		{
			"an address of a load balancer may be shared by Services on different ports and protocols",
			ports(web("web", balancer("192.0.2.2")), web("tls", clusterIPs("10.96.0.2"), balancer("192.0.2.2"), serving(443, model.TCP)),
				web("quic", clusterIPs("10.96.0.3"), balancer("192.0.2.2"), serving(443, model.UDP))),
			[]string{
				refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:443/TCP -> shop/tls:443 v4",
				"10.96.0.3 (other ports) refused", "10.96.0.3:443/UDP -> shop/quic:443 v4",
				"192.0.2.2:443/TCP -> shop/tls:443 v4 load-balancer", "192.0.2.2:443/UDP -> shop/quic:443 v4 load-balancer",
				"192.0.2.2:80/TCP -> shop/web:80 v4 load-balancer",
			},
			nil,
		},
		{
			"the same port of it is the older Service's, whichever sort of address it is",
			ports(web("web", balancer("192.0.2.2")), web("old", clusterIPs("10.96.0.2"), external("192.0.2.2"), aged(1))),
			[]string{refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:80/TCP -> shop/old:80 v4", "192.0.2.2:80/TCP -> shop/old:80 v4 external"},
			[]string{"Service web: its load balancer's address 192.0.2.2:80/TCP belongs to Service shop/old, which is older: give one of them another port"},
		},
		{
			"nobody takes another's cluster address, not even an older Service, on no port",
			ports(web("web"), web("thief", clusterIPs("10.96.0.2"), external("10.96.0.1"), balancer("10.96.0.1"), aged(9), serving(443, model.TCP))),
			[]string{refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:443/TCP -> shop/thief:443 v4"},
			[]string{
				"Service thief: its external address 10.96.0.1 is not used: it is the cluster address of Service shop/web",
				"Service thief: its load balancer's address 10.96.0.1 is not used: it is the cluster address of Service shop/web",
			},
		},
		{
			"a Service's own cluster address as an external one is the cluster address",
			ports(web("web", external("10.96.0.1"), balancer("10.96.0.1"))),
			[]string{refused, cluster},
			nil,
		},
		{
			"an address that is external and a load balancer's is the load balancer's, with its source ranges",
			ports(web("web", external("192.0.2.1"), balancer("192.0.2.1"), ranges("203.0.113.0/24"))),
			[]string{refused, cluster, "192.0.2.1:80/TCP -> shop/web:80 v4 load-balancer ranges", "shop/web:80/TCP v4 takes 203.0.113.0/24"},
			nil,
		},
		{
			"addresses of a family that the Service hasn't are named",
			ports(web("web", external("2001:db8::1"), balancer("2001:db8::2"))),
			[]string{refused, cluster},
			[]string{
				"Service web: its external address 2001:db8::1 is not used: it has no cluster address of IPv6",
				"Service web: its load balancer's address 2001:db8::2 is not used: it has no cluster address of IPv6",
			},
		},
		{
			"source ranges are the load balancer's alone, each family has its own, and bits after the prefix don't matter",
			ports(web("web", clusterIPs("10.96.0.1", "fd96::1"), nodePort(30080), balancer("192.0.2.2", "2001:db8::2"),
				ranges("203.0.113.7/24", " 2001:db8:1::/48 ", "203.0.113.0/24"))),
			[]string{
				refused, cluster, "192.0.2.2:80/TCP -> shop/web:80 v4 load-balancer ranges",
				"[2001:db8::2]:80/TCP -> shop/web:80 v6 load-balancer ranges", "[fd96::1]:80/TCP -> shop/web:80 v6", "fd96::1 (other ports) refused",
				"node4:30080/TCP -> shop/web:80 v4 node-port", "node6:30080/TCP -> shop/web:80 v6 node-port",
				"shop/web:80/TCP v4 takes 203.0.113.0/24", "shop/web:80/TCP v6 takes 2001:db8:1::/48",
			},
			nil,
		},
		{
			"a source range that can't be read is named, the others count",
			ports(web("web", balancer("192.0.2.2"), ranges("203.0.113.0/24", "everyone"))),
			[]string{refused, cluster, "192.0.2.2:80/TCP -> shop/web:80 v4 load-balancer ranges", "shop/web:80/TCP v4 takes 203.0.113.0/24"},
			[]string{`Service web: loadBalancerSourceRanges[1] is not used: "everyone" is no prefix such as 192.0.2.0/24`},
		},
		{
			"a Service of whose source ranges none can be read takes nobody, never everybody",
			ports(web("web", balancer("192.0.2.2"), ranges("everyone"))),
			[]string{refused, cluster, "192.0.2.2:80/TCP -> shop/web:80 v4 load-balancer ranges"},
			[]string{`Service web: loadBalancerSourceRanges[0] is not used: "everyone" is no prefix such as 192.0.2.0/24; no range is left, so its load balancer's addresses take no client`},
		},
		{
			"nodes tell the health of a Service with externalTrafficPolicy Local behind a load balancer",
			ports(web("web", healthPort(32000)), web("cluster", clusterIPs("10.96.0.2"), healthPort(32001), func(s *schemas.Service) { s.ExternalLocal = false })),
			[]string{refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:80/TCP -> shop/cluster:80 v4", "health of shop/web on 32000"},
			nil,
		},
		{
			"a health check port that two claim is the older Service's",
			ports(web("web", healthPort(32000)), web("late", clusterIPs("10.96.0.2"), healthPort(32000), aged(-1))),
			[]string{refused, cluster, "10.96.0.2 (other ports) refused", "10.96.0.2:80/TCP -> shop/late:80 v4", "health of shop/web on 32000"},
			[]string{"Service late: its healthCheckNodePort 32000 belongs to Service shop/web, which is older: give one of them another port"},
		},
		{
			"a Service that lost its cluster address keeps its NodePort",
			ports(web("web", aged(1)), web("late", nodePort(30080))),
			[]string{refused, cluster, "node4:30080/TCP -> shop/late:80 v4 node-port"},
			[]string{"Service late: its address 10.96.0.1 belongs to Service shop/web, which is older: give one of them another address"},
		},
		{
			"what other software serves claims nothing",
			ports(web("web", nodePort(30080), balancer("192.0.2.2")),
				web("other", aged(9), nodePort(30080), balancer("192.0.2.2"), func(s *schemas.Service) { s.ProxyName = "mesh" }),
				web("name", aged(9), nodePort(30080), func(s *schemas.Service) { s.Type = "ExternalName" })),
			[]string{refused, cluster, "192.0.2.2:80/TCP -> shop/web:80 v4 load-balancer", "node4:30080/TCP -> shop/web:80 v4 node-port"},
			nil,
		},
		{
			"a headless Service has no frontends, whatever it says",
			ports(web("web", clusterIPs(), nodePort(30080), external("192.0.2.1"), balancer("192.0.2.2"))), nil, nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := full(t, anyExternal, test.facts...)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, rows(out, " -> ", "refused", " takes ", "health of")); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.aside, reasons(out)); diff != "" {
				t.Errorf("set aside (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStories changes Services step by step and holds the rows after each step to what a compilation of everything
// gives, and the change to its promise that no key is both put and removed.
//
// Trap 41: Services that change their type, ports and addresses step by step have the rows that a compilation of
// everything gives.
func TestStories(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []*schemas.Fact
		batch  []*schemas.Fact
		want   []string
	}{
		{
			"two Services swap NodePorts in one batch",
			ports(web("a", nodePort(30001)), web("b", clusterIPs("10.96.0.2"), nodePort(30002))),
			ports(web("a", nodePort(30002)), web("b", clusterIPs("10.96.0.2"), nodePort(30001))),
			[]string{"node4:30001/TCP -> shop/b:80 v4 node-port", "node4:30002/TCP -> shop/a:80 v4 node-port"},
		},
		{
			"a Service is deleted, and another gets its address and NodePort",
			ports(web("a", nodePort(30001))), ports(web("b", nodePort(30001)), gone("Service", "a")),
			[]string{"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/b:80 v4", "node4:30001/TCP -> shop/b:80 v4 node-port"},
		},
		{
			"a Service becomes headless", ports(web("a", nodePort(30001))), ports(web("a", clusterIPs())), nil,
		},
		{
			"a headless Service gets an address", ports(web("a", clusterIPs())), ports(web("a")),
			[]string{"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/a:80 v4"},
		},
		{
			"a Service becomes an ExternalName", ports(web("a", nodePort(30001))),
			ports(web("a", clusterIPs(), func(s *schemas.Service) { s.Type = "ExternalName" })), nil,
		},
		{
			"the families of a dual-stack Service change places: nothing changes",
			ports(web("a", clusterIPs("10.96.0.1", "fd96::1"))), ports(web("a", clusterIPs("fd96::1", "10.96.0.1"))),
			[]string{"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/a:80 v4", "[fd96::1]:80/TCP -> shop/a:80 v6", "fd96::1 (other ports) refused"},
		},
		{
			"who held an address gives it up: the next one has it",
			ports(web("a", balancer("192.0.2.2"), aged(1)), web("b", clusterIPs("10.96.0.2"), balancer("192.0.2.2"))),
			ports(web("a")),
			[]string{
				"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/a:80 v4", "10.96.0.2 (other ports) refused",
				"10.96.0.2:80/TCP -> shop/b:80 v4", "192.0.2.2:80/TCP -> shop/b:80 v4 load-balancer",
			},
		},
		{
			"a younger Service turns out to be the older one",
			ports(web("a", nodePort(30001)), web("b", clusterIPs("10.96.0.2"), nodePort(30001), aged(-1))),
			ports(web("b", clusterIPs("10.96.0.2"), nodePort(30001), aged(1))),
			[]string{
				"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/a:80 v4", "10.96.0.2 (other ports) refused",
				"10.96.0.2:80/TCP -> shop/b:80 v4", "node4:30001/TCP -> shop/b:80 v4 node-port",
			},
		},
		{
			"a cluster address comes that another used as an external one",
			ports(web("a", balancer("192.0.2.2"))), ports(web("b", clusterIPs("192.0.2.2"), serving(443, model.TCP))),
			[]string{
				"10.96.0.1 (other ports) refused", "10.96.0.1:80/TCP -> shop/a:80 v4", "192.0.2.2 (other ports) refused", "192.0.2.2:443/TCP -> shop/b:443 v4",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			db, alloc := state.New(), ids.New(ids.DefaultQuarantine)
			apply(t, db, test.before...)
			before := db.Snapshot()
			layers := Full(before, alloc, anyExternal).Layers
			work := apply(t, db, test.batch...)
			for layer, change := range together(t, update(before, db.Snapshot(), alloc, anyExternal, work)) {
				checkChange(t, change)
				alloc.Fold(layers[layer], change, start)
				layers[layer].Apply(change, model.Digest{})
			}
			got := rows(Output{Layers: layers}, " -> ", "refused")
			slices.Sort(test.want)
			for _, w := range test.want {
				if !slices.Contains(got, w) {
					t.Errorf("there is no %q in %q", w, got)
				}
			}
			if diff := cmp.Diff(rows(Full(db.Snapshot(), alloc, anyExternal)), rows(Output{Layers: layers})); diff != "" {
				t.Errorf("the change leads elsewhere than compiling everything (-full +change):\n%s", diff)
			}
			if len(test.want) == 0 && len(got) > 0 {
				t.Errorf("there should be no frontends, there are %q", got)
			}
		})
	}
}
