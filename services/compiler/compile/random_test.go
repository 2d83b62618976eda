// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// draw draws random objects. The names and addresses are few, so that objects meet: claim the same address or port,
// share endpoints, come back.
type draw struct{ *rapid.T }

func randomFact(t *rapid.T) *schemas.Fact {
	d := draw{t}
	if d.one(3) {
		return d.policyFact()
	}
	kind := d.pick("Service", "Service", "EndpointSlice", "EndpointSlice", "EndpointSlice", "Pod", "Pod", "Node", "Cluster")
	name := d.pick("a", "b", "c")
	if kind == "Node" {
		name = d.pick("n1", "n2", "n3", sameNumber, sameNumberToo)
	}
	if d.one(5) {
		return absent(kind, name)
	}
	switch kind {
	case "Service":
		return serviceFact(name, d.service())
	case "EndpointSlice":
		return sliceFact("slice-"+name, d.pick("a", "b", "c", "missing", ""), d.slice())
	case "Node":
		return nodeFact(name, &schemas.Node{
			Zone: d.pick("", "z1", "z2"), Draining: d.one(3), PodCidrs: d.some(2, "10.1.0.0/24", "10.1.1.0/24", "fd00::/64", "bad"),
			Labels: d.labels(), Addresses: ips(d.some(1, "192.168.0.1", "fd01::1")...),
			InternalIps: ips(d.some(2, "192.168.0.1", "192.168.0.2", "fd01::1", "127.0.0.1")...),
		})
	case "Cluster":
		return clusterFact(name, d.some(2, "10.1.0.0/16", "10.1.0.0/24", "fd00::/64"), d.some(2, "10.96.0.0/16", "10.1.0.0/24", "bad"))
	}
	pod := podFact(name, d.pod())
	pod.Object.Namespace, pod.Object.Uid = d.pick("shop", "shop", "lab"), d.pick("", "again")
	return pod
}

func randomSettings(t *rapid.T) Settings {
	d := draw{t}
	limits := policy.Limits{}
	if d.one(3) {
		limits = policy.Limits{Combinations: 3, Ports: 2, Blocks: 1} // some policies are beyond them
	}
	return Settings{
		Policy:           limits,
		Forwarding:       rapid.SampledFrom([]state.Forwarding{state.ForwardDefault, state.ForwardSNAT, state.ForwardDSR}).Draw(t, "forwarding"),
		AllowExternalIPs: d.prefixes("192.0.2.0/25", "2001:db8::/32"),
		PodCIDRs:         d.prefixes("10.1.0.0/24", "10.2.0.0/16"), ServiceCIDRs: d.prefixes("10.96.0.0/12"),
	}
}

func (d draw) pick(of ...string) string { return rapid.SampledFrom(of).Draw(d.T, "pick") }

func (d draw) one(in int) bool { return rapid.IntRange(1, in).Draw(d.T, "one in") == 1 }

func (d draw) number(least, most uint32) uint32 {
	return rapid.Uint32Range(least, most).Draw(d.T, "number")
}

func (d draw) some(most int, of ...string) []string {
	return rapid.SliceOfN(rapid.SampledFrom(of), 0, most).Draw(d.T, "some")
}

func (d draw) prefixes(of ...string) (list []netip.Prefix) {
	for _, text := range of {
		if d.one(2) {
			list = append(list, netip.MustParsePrefix(text))
		}
	}
	return list
}

func (d draw) protocol() model.Protocol {
	return rapid.SampledFrom([]model.Protocol{model.TCP, model.UDP}).Draw(d.T, "protocol")
}

func (d draw) service() *schemas.Service {
	s := &schemas.Service{
		Type: d.pick("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName"), ProxyName: d.pick("", "", "", "other"),
		Created:       timestamppb.New(start.Add(time.Duration(d.number(0, 2)) * time.Hour)),
		InternalLocal: d.one(3), ExternalLocal: d.one(2), AffinitySeconds: rapid.SampledFrom([]uint32{0, 0, 10, 86400}).Draw(d.T, "affinity"),
		HealthCheckNodePort: d.number(0, 2), Forwarding: d.pick("", "", "dsr", "snat", "bad"),
		// Three cluster addresses are one too many: set aside.
		ClusterIps:      ips(d.some(3, "10.96.0.1", "10.96.0.2", "fd96::1", "fd96::2")...),
		ExternalIps:     ips(d.some(2, "192.0.2.1", "192.0.2.200", "10.96.0.2", "2001:db8::1", "127.0.0.1")...),
		LoadBalancerIps: ips(d.some(2, "192.0.2.1", "192.0.2.2", "10.96.0.1", "2001:db8::1")...),
		SourceRanges:    d.some(2, "203.0.113.0/24", " 198.51.100.7/24", "2001:db8:1::/48", "bad"),
	}
	for i := range d.number(0, 2) {
		p := port(fmt.Sprint("p", i), d.protocol(), d.number(80, 81)) // the same port twice: set aside
		p.NodePort = rapid.SampledFrom([]uint32{0, 30001, 30002}).Draw(d.T, "node port")
		s.Ports = append(s.Ports, p)
	}
	return s
}

func (d draw) slice() *schemas.EndpointSlice {
	family := rapid.SampledFrom([]model.Family{model.IPv4, model.IPv6}).Draw(d.T, "family")
	m := endpoints(family, nil)
	m.Weight = d.pick("", "", "1", "50", "bad")
	for range d.number(0, 2) {
		m.Ports = append(m.Ports, target(d.pick("p0", "p1"), d.protocol(), d.number(0, 2)))
	}
	for range d.number(0, 4) {
		e := endpoint(fmt.Sprint("10.1.0.", d.number(1, 4)), d.some(2, "ready", "ready", "serving", "terminating")...)
		if family == model.IPv6 && !d.one(20) {
			e.Address = ip(fmt.Sprint("fd00::", d.number(1, 4)))
		}
		e.Node = d.pick("n1", "n2", "n3", "")
		e.ZoneHints, e.NodeHints = d.some(2, "z1", "z2", "z1", ""), d.some(2, "n1", "n2", "n3")
		m.Endpoints = append(m.Endpoints, e)
	}
	return m
}

func (d draw) pod() *schemas.Pod {
	p := &schemas.Pod{
		Node: d.pick("n1", "n2", ""), HostNetwork: d.one(6), Finished: d.one(6), Labels: d.labels(), Ports: d.namedPorts(),
	}
	for range d.number(0, 2) {
		p.Addresses = append(p.Addresses, ip(d.pick("10.1.0.1", "10.1.0.2", "fd00::1")))
	}
	for range d.number(0, 2) {
		h := &schemas.HostPort{Protocol: schemas.Protocol(d.protocol()), HostPort: d.number(80, 81), ContainerPort: d.number(0, 2)}
		if !d.one(2) {
			h.HostIp = ip(d.pick("127.0.0.1", "192.0.2.1", "10.96.0.1", "2001:db8::1", "0.0.0.0"))
		}
		p.HostPorts = append(p.HostPorts, h)
	}
	return p
}
