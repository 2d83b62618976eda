// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

func found(values ...string) (out []*schemas.Found) {
	for _, v := range values {
		value, origin, _ := strings.Cut(v, " from ")
		out = append(out, &schemas.Found{Value: value, Origin: origin})
	}
	return out
}

// Row 26: prefixes of pods and Services and the API servers' addresses are found, each with the object that says so.
func TestEachValueIsFoundWithItsOrigin(t *testing.T) {
	kubeadm := map[string]string{"ClusterConfiguration": `
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: api.example:6443
networking: {podSubnet: "10.244.0.0/16,fd00:10:244::/56", serviceSubnet: 10.96.0.0/12}
`}
	for name, test := range map[string]struct {
		seen evidence
		want *schemas.Cluster
	}{
		"nothing": {evidence{}, &schemas.Cluster{}},
		"everything": {
			evidence{
				nodes:        map[string][]string{"a": {"10.244.1.0/24"}, "b": {"10.9.2.0/24"}, "c": {"10.9.3.0/24"}},
				servers:      []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("[2001:db8::1]:6443")},
				serviceCIDRs: map[string][]string{"kubernetes": {"10.96.0.0/12"}, "more": {"10.200.0.0/16"}},
				configMaps: map[string]map[string]string{
					kubeadmConfig: kubeadm,
					kubeProxy: {
						"config.conf":     "clusterCIDR: 10.244.0.0/16,10.8.0.0/16\nmode: nftables\n",
						"kubeconfig.conf": "clusters: [{cluster: {server: 'https://[2001:db8::9]:6443'}, name: default}]\n",
					},
					clusterInfo: {"kubeconfig": "clusters: [{cluster: {server: https://api.example}}]\n"},
				},
			},
			&schemas.Cluster{
				PodCidrs: found(
					"10.244.0.0/16 from ConfigMap kube-system/kubeadm-config, networking.podSubnet",
					"fd00:10:244::/56 from ConfigMap kube-system/kubeadm-config, networking.podSubnet",
					"10.8.0.0/16 from ConfigMap kube-system/kube-proxy, clusterCIDR",
					"10.9.2.0/23 from Nodes, spec.podCIDRs"),
				ServiceCidrs: found("10.96.0.0/12 from ServiceCIDR kubernetes, spec.cidrs", "10.200.0.0/16 from ServiceCIDR more, spec.cidrs"),
				ApiServers: found("192.0.2.1:6443 from EndpointSlice default/kubernetes", "[2001:db8::1]:6443 from EndpointSlice default/kubernetes",
					"api.example:6443 from ConfigMap kube-system/kubeadm-config, controlPlaneEndpoint",
					"[2001:db8::9]:6443 from ConfigMap kube-system/kube-proxy, kubeconfig.conf, server",
					"api.example:443 from ConfigMap kube-public/cluster-info, server"),
			},
		},
		"what is no YAML, no prefix and no URL": {
			evidence{configMaps: map[string]map[string]string{
				kubeadmConfig: {"ClusterConfiguration": "networking: [not, this]\n"},
				kubeProxy:     {"config.conf": "clusterCIDR: everywhere\n"},
				clusterInfo:   {"kubeconfig": "clusters: [{cluster: {server: '::'}}]\n"},
			}},
			&schemas.Cluster{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.seen.cluster(), protocmp.Transform()); diff != "" {
				t.Errorf("cluster (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrefixesAreMerged(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"10.0.1.0/24 10.0.0.0/24":    "10.0.0.0/23",
		"10.0.1.0/24 10.0.2.0/24":    "10.0.1.0/24 10.0.2.0/24",
		"10.0.0.0/16 10.0.3.0/24":    "10.0.0.0/16",
		"10.0.0.0/24 10.0.0.0/24":    "10.0.0.0/24",
		"0.0.0.0/1 128.0.0.0/1 ::/0": "0.0.0.0/0 ::/0",
		"fd00:0:0:1::/64 fd00::/64":  "fd00::/63",
		"10.0.0.0/25 10.0.0.128/25 10.0.1.0/24 10.0.2.0/23": "10.0.0.0/22",
	} {
		var prefixes []netip.Prefix
		for text := range strings.FieldsSeq(in) {
			prefixes = append(prefixes, netip.MustParsePrefix(text))
		}
		var got []string
		for _, p := range merge(prefixes) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", in, got, want)
		}
	}
}

func TestOnlyWhatIsNewWakesTheFinder(t *testing.T) {
	node := func(name string, cidrs ...string) *schemas.Fact {
		return &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "Node", Name: name},
			State:  &schemas.Fact_Node{Node: &schemas.Node{PodCidrs: cidrs}},
		}
	}
	slice := func(namespace string, last byte, ready bool) *schemas.Fact {
		return &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "EndpointSlice", Namespace: namespace, Name: "kubernetes"},
			State: &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{
				Service: "kubernetes", Ports: []*schemas.EndpointPort{{Port: 6443}},
				Endpoints: []*schemas.SliceEndpoint{{Address: []byte{192, 0, 2, last}, Ready: ready}},
			}},
		}
	}
	e := newEvidence()
	for i, step := range []struct {
		in   core.Input
		want bool
	}{
		{core.List{Facts: []*schemas.Fact{node("a", "10.0.0.0/24"), node("b")}}, true},
		{core.Upsert{Fact: node("a", "10.0.0.0/24")}, false},
		{core.Upsert{Fact: node("a", "10.0.1.0/24")}, true},
		{core.Delete{Object: node("a").GetObject()}, true},
		{core.Delete{Object: node("a").GetObject()}, false},
		{core.Upsert{Fact: slice("shop", 1, true)}, false},
		{core.Upsert{Fact: slice("default", 1, true)}, true},
		{core.Upsert{Fact: slice("default", 1, true)}, false},
		{core.Upsert{Fact: slice("default", 1, false)}, false}, // no server is no reason to forget the last known ones
		{core.Upsert{Fact: slice("default", 2, true)}, true},
	} {
		if got := e.see(step.in); got != step.want {
			t.Errorf("step %d: changed %v, want %v", i, got, step.want)
		}
	}
	if len(e.servers) != 1 || e.servers[0].String() != "192.0.2.2:6443" {
		t.Errorf("servers: %v", e.servers)
	}
}

// A range is added rarely and isn't watched: its first Service says that there is one.
func TestServiceOutsideOfAllRangesIsForeign(t *testing.T) {
	e := newEvidence()
	service := func(addr string) core.Input {
		return core.Upsert{Fact: &schemas.Fact{
			Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: "cart"},
			State:  &schemas.Fact_Service{Service: &schemas.Service{ClusterIps: [][]byte{netip.MustParseAddr(addr).AsSlice()}}},
		}}
	}
	if e.see(service("10.97.0.7")) || e.foreign {
		t.Error("a Service is foreign before any range is known")
	}
	e.serviceCIDRs = map[string][]string{"kubernetes": {"10.96.0.0/16", "fd00:10:96::/112"}}
	if e.see(service("10.96.0.7")) || e.see(service("fd00:10:96::7")) || e.foreign {
		t.Error("a Service of a known range is foreign")
	}
	if !e.see(service("10.97.0.7")) || !e.foreign {
		t.Error("a Service of an unknown range isn't foreign")
	}
}
