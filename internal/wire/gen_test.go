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
		return model.FrontendKey{Addr: genAddr().Draw(t, "addr"), Port: genPort().Draw(t, "port"), Protocol: genProtocol().Draw(t, "protocol")}
	})
}

func genSet() *rapid.Generator[model.BackendSet] {
	return rapid.Custom(func(t *rapid.T) model.BackendSet {
		return model.BackendSet{ID: genSetID().Draw(t, "id"), SetKey: model.SetKey{
			Service: model.ServicePort{
				Namespace: genName(63).Draw(t, "namespace"), Name: genName(63).Draw(t, "name"),
				Port: genPort().Draw(t, "port"), Protocol: genProtocol().Draw(t, "protocol"),
			},
			Family: rapid.SampledFrom([]model.Family{model.IPv4, model.IPv6}).Draw(t, "family"), Scope: model.ScopeAll,
		}}
	})
}

func genBackend() *rapid.Generator[model.Backend] {
	return rapid.Custom(func(t *rapid.T) model.Backend {
		return model.Backend{
			ID: genBackendID().Draw(t, "id"),
			BackendKey: model.BackendKey{
				Set: genSetID().Draw(t, "set"), Addr: genAddr().Draw(t, "addr"), Port: genPort().Draw(t, "port"),
			},
			State: rapid.SampledFrom([]model.BackendState{model.BackendActive, model.BackendTerminating}).Draw(t, "state"),
		}
	})
}

func genMember() *rapid.Generator[model.Member] {
	return rapid.Custom(func(t *rapid.T) model.Member {
		return model.Member{Set: model.SetID(rapid.Uint32Range(1, 5).Draw(t, "set")), Backend: genBackendID().Draw(t, "backend")}
	})
}

func genTables() *rapid.Generator[*model.Tables] {
	return rapid.Custom(func(t *rapid.T) *model.Tables {
		tables := model.NewTables()
		for _, k := range rapid.SliceOfN(genKey(), 0, 20).Draw(t, "frontends") {
			tables.Frontends[k] = model.Frontend{FrontendKey: k, Set: genSetID().Draw(t, "set"), Kind: model.FrontendClusterIP}
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
			tables.Endpoints[a] = model.Endpoint{Addr: a, Pod: genName(63).Draw(t, "ns") + "/" + genName(253).Draw(t, "pod")}
		}
		return tables
	})
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
		}
	})
}
