// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net/netip"
	"time"

	"pgregory.net/rapid"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Generators of valid model values.

func genAddr() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "v4") {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")))
		}
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes"))).Unmap()
	})
}

func genName(most int) *rapid.Generator[string] {
	return rapid.StringMatching(fmt.Sprintf(`[a-z0-9]([a-z0-9.-]{0,%d}[a-z0-9])?`, min(most-2, 60)))
}

func genPort() *rapid.Generator[uint16] { return rapid.Uint16Range(1, 65535) }

func genProtocol() *rapid.Generator[model.Protocol] {
	return rapid.SampledFrom([]model.Protocol{model.TCP, model.UDP, model.SCTP})
}

func genSetID() *rapid.Generator[model.SetID] {
	return rapid.Map(rapid.Uint32Min(1), func(n uint32) model.SetID { return model.SetID(n) })
}

func genBackendID() *rapid.Generator[model.BackendID] {
	return rapid.Map(rapid.Uint32Min(1), func(n uint32) model.BackendID { return model.BackendID(n) })
}

func genKey() *rapid.Generator[model.FrontendKey] {
	return rapid.Custom(func(t *rapid.T) model.FrontendKey {
		k := model.FrontendKey{Addr: genAddr().Draw(t, "addr"), Match: model.Match(rapid.IntRange(0, 2).Draw(t, "match"))}
		if k.Match != model.MatchAddress {
			k.Addr = rapid.SampledFrom([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}).Draw(t, "family")
		} else if rapid.Bool().Draw(t, "refused") {
			return k
		}
		k.Port, k.Protocol = genPort().Draw(t, "port"), genProtocol().Draw(t, "protocol")
		return k
	})
}

func drawFrontend(t *rapid.T, k model.FrontendKey) model.Frontend {
	if k.Port == 0 {
		return model.Frontend{FrontendKey: k, Kind: model.FrontendRefused}
	}
	kinds := map[model.Match][]model.FrontendKind{
		model.MatchAddress: {
			model.FrontendClusterIP, model.FrontendExternalIP, model.FrontendLoadBalancer, model.FrontendHostPort,
		},
		model.MatchNodePort: {model.FrontendNodePort}, model.MatchHostPort: {model.FrontendHostPort},
	}
	f := model.Frontend{
		FrontendKey: k, Set: genSetID().Draw(t, "set"), Kind: rapid.SampledFrom(kinds[k.Match]).Draw(t, "kind"),
		Flags: model.FrontendFlags(rapid.Uint16Range(0, 7).Draw(t, "flags")),
	}
	switch f.Kind {
	case model.FrontendNodePort, model.FrontendExternalIP, model.FrontendLoadBalancer:
		if f.Flags&model.ExternalLocal == 0 {
			f.Flags |= rapid.SampledFrom([]model.FrontendFlags{0, model.ForwardTunnel, model.ForwardDSR}).Draw(t, "forwarding")
		}
	}
	return f
}

func genPlace() *rapid.Generator[model.Place] {
	return rapid.Map(rapid.Uint64Min(1), func(n uint64) model.Place { return model.Place(n) })
}

func genSet() *rapid.Generator[model.BackendSet] {
	return rapid.Custom(func(t *rapid.T) model.BackendSet {
		s := model.BackendSet{ID: genSetID().Draw(t, "id"), SetKey: model.SetKey{
			Service: model.ServicePort{
				Namespace: genName(63).Draw(t, "namespace"), Name: genName(63).Draw(t, "name"),
				Port: genPort().Draw(t, "port"), Protocol: genProtocol().Draw(t, "protocol"),
			},
			Family: rapid.SampledFrom([]model.Family{model.IPv4, model.IPv6}).Draw(t, "family"),
			Scope:  model.Scope(rapid.IntRange(1, 5).Draw(t, "scope")),
		}, Affinity: rapid.Uint32Range(0, 86_400).Draw(t, "affinity")}
		external := rapid.SampledFrom([]model.SetFlags{0, model.External}).Draw(t, "external")
		if s.Scope == model.ScopeAll || s.Scope == model.ScopeHostPort {
			s.Root, s.Flags = s.ID, model.SetFlags(rapid.IntRange(0, 7).Draw(t, "flags"))
			if s.Scope == model.ScopeAll {
				s.Flags |= external
			}
			return s
		}
		s.Place, s.Root = genPlace().Draw(t, "place"), s.ID^1
		if s.Root == 0 {
			s.Root = 2
		}
		s.Flags = rapid.SampledFrom([]model.SetFlags{0, model.Fallback}).Draw(t, "flags")
		if s.Scope == model.ScopeZone {
			s.Flags |= external
		}
		return s
	})
}

func genView() *rapid.Generator[model.View] {
	return rapid.Custom(func(t *rapid.T) model.View {
		v := model.View{ViewKey: model.ViewKey{Set: genSetID().Draw(t, "set"), Scope: model.Scope(rapid.IntRange(2, 4).Draw(t, "scope"))}}
		if v.Scope == model.ScopeZone {
			v.Place = genPlace().Draw(t, "place")
		}
		v.Target = genSetID().Filter(func(id model.SetID) bool { return id != v.Set }).Draw(t, "target")
		return v
	})
}

func genPrefix() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		addr := genAddr().Draw(t, "addr")
		p := netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits"))
		return p.Masked()
	})
}

func genBackend() *rapid.Generator[model.Backend] {
	return rapid.Custom(func(t *rapid.T) model.Backend {
		return model.Backend{
			ID: genBackendID().Draw(t, "id"),
			BackendKey: model.BackendKey{
				Set: genSetID().Draw(t, "set"), Addr: genAddr().Draw(t, "addr"), Port: genPort().Draw(t, "port"),
				Place: rapid.OneOf(rapid.Just(model.Place(0)), genPlace()).Draw(t, "place"),
			},
			State:  rapid.SampledFrom([]model.BackendState{model.BackendActive, model.BackendTerminating}).Draw(t, "state"),
			Twin:   rapid.OneOf(rapid.Just(model.BackendID(0)), genBackendID()).Draw(t, "twin"),
			Node:   model.NodeID(rapid.Uint32().Draw(t, "node")),
			Weight: rapid.OneOf(rapid.Just(uint16(0)), rapid.Uint16Range(2, model.MaxWeight)).Draw(t, "weight"),
		}
	})
}

func genMember() *rapid.Generator[model.Member] {
	return rapid.Custom(func(t *rapid.T) model.Member {
		return model.Member{Set: model.SetID(rapid.Uint32Range(1, 5).Draw(t, "set")), Backend: genBackendID().Draw(t, "backend")}
	})
}

func drawEndpoint(t *rapid.T, addr netip.Addr) model.Endpoint {
	return model.Endpoint{
		Addr: addr, Pod: genName(63).Draw(t, "ns") + "/" + genName(253).Draw(t, "pod"),
		Incarnation: rapid.Uint32().Draw(t, "incarnation"),
		Ingress:     model.RuleSetID(rapid.Uint64().Draw(t, "ingress")),
		Egress:      model.RuleSetID(rapid.Uint64().Draw(t, "egress")),
	}
}

func genTables() *rapid.Generator[*model.Tables] {
	return rapid.Custom(func(t *rapid.T) *model.Tables {
		tables := model.NewTables()
		for _, k := range rapid.SliceOfN(genKey(), 0, 20).Draw(t, "frontends") {
			tables.Frontends[k] = drawFrontend(t, k)
		}
		for _, s := range rapid.SliceOfN(genSet(), 0, 20).Draw(t, "sets") {
			tables.Sets[s.ID] = s
		}
		for _, b := range rapid.SliceOfN(genBackend(), 0, 20).Draw(t, "backends") {
			tables.Backends[b.ID] = b
		}
		for _, m := range rapid.SliceOfN(genMember(), 0, 60).Draw(t, "members") {
			tables.Members[m] = m
		}
		for _, a := range rapid.SliceOfN(genAddr(), 0, 20).Draw(t, "endpoints") {
			tables.Endpoints[a] = drawEndpoint(t, a)
		}
		for _, v := range rapid.SliceOfN(genView(), 0, 20).Draw(t, "views") {
			tables.Views[v.ViewKey] = v
		}
		drawAround(t, tables)
		drawPolicy(t, tables)
		return tables
	})
}

// drawAround adds rows of the tables that are no part of a set.
func drawAround(t *rapid.T, tables *model.Tables) {
	for _, p := range rapid.SliceOfN(genPrefix(), 0, 10).Draw(t, "source ranges") {
		r := model.SourceRange{Set: genSetID().Draw(t, "set"), Prefix: p}
		tables.SourceRanges[r] = r
	}
	for _, p := range rapid.SliceOfN(genPrefix(), 0, 10).Draw(t, "networks") {
		kind := rapid.SampledFrom([]model.NetworkKind{model.NetworkPods, model.NetworkServices}).Draw(t, "kind")
		tables.Networks[p] = model.Network{Prefix: p, Kind: kind}
	}
	for _, port := range rapid.SliceOfN(genPort(), 0, 10).Draw(t, "health checks") {
		tables.HealthChecks[port] = model.HealthCheck{Port: port, Namespace: genName(63).Draw(t, "namespace"), Name: genName(63).Draw(t, "name")}
	}
	for _, id := range rapid.SliceOfN(rapid.Uint32Min(1), 0, 10).Draw(t, "nodes") {
		tables.Nodes[model.NodeID(id)] = drawNode(t, model.NodeID(id))
	}
	if rapid.Bool().Draw(t, "has self") {
		zone := rapid.OneOf(rapid.Just(""), genName(60)).Draw(t, "zone")
		tables.Selves[model.SelfKey{}] = model.Self{
			Zone: zone, Draining: rapid.Bool().Draw(t, "draining"), Policed: rapid.Bool().Draw(t, "policed"),
		}
	}
}

// drawNode draws a node with an address of one family, or of both.
func drawNode(t *rapid.T, id model.NodeID) model.Node {
	n := model.Node{ID: id}
	last := rapid.Byte().Draw(t, "last")
	families := rapid.IntRange(1, 3).Draw(t, "families")
	if families&1 != 0 {
		n.V4 = netip.AddrFrom4([4]byte{192, 0, 2, last})
	}
	if families&2 != 0 {
		n.V6 = netip.AddrFrom16([16]byte{0: 0xfd, 15: last})
	}
	return n
}

func genLayer() *rapid.Generator[model.Layer] {
	return rapid.OneOf(rapid.Just(model.ClusterLayer), rapid.Map(genName(253), model.NodeLayer))
}

func genTime() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "unknown") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).UTC()
	})
}

func genCause() *rapid.Generator[model.Cause] {
	return rapid.Custom(func(t *rapid.T) model.Cause {
		return model.Cause{
			Kind: genName(30).Draw(t, "kind"), Namespace: rapid.OneOf(rapid.Just(""), genName(63)).Draw(t, "namespace"),
			Name: genName(253).Draw(t, "name"), UID: genName(36).Draw(t, "uid"),
			ResourceVersion: genName(20).Draw(t, "version"), Manager: genName(40).Draw(t, "manager"),
			Trigger: genTime().Draw(t, "trigger"), Deleted: rapid.Bool().Draw(t, "deleted"),
		}
	})
}

func genDelta() *rapid.Generator[model.Delta] {
	return rapid.Custom(func(t *rapid.T) model.Delta {
		from, to := genTables().Draw(t, "from"), genTables().Draw(t, "to")
		revision := rapid.Uint64Range(0, 1<<62).Draw(t, "revision")
		return model.Delta{
			Epoch: model.Epoch(rapid.Uint64Min(1).Draw(t, "epoch")), Layer: genLayer().Draw(t, "layer"),
			From: model.Revision(revision), To: model.Revision(revision + rapid.Uint64Range(1, 1000).Draw(t, "step")),
			Change: *model.Diff(from, to), DigestAfter: to.Digest(),
			Causes:    rapid.SliceOfN(genCause(), 0, 3).Draw(t, "causes"),
			Committed: genTime().Draw(t, "committed"), CausesLeftOut: rapid.Uint32().Draw(t, "left out"),
			StateSequence: rapid.Uint64().Draw(t, "state sequence"),
		}
	})
}
