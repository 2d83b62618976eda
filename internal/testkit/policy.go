// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Pod is an address of a pod of the node, and what judges its connections; 0 is nothing.
type Pod struct {
	Addr            netip.Addr
	Ingress, Egress model.RuleSetID
	Incarnation     uint32
}

// PutPolicy writes what decides about pods' connections: Pod, model.Peer, model.Block, model.Verdict,
// model.PortVerdict, model.Network. The programs are not told, see bpf.Dataplane's Judge.
func PutPolicy(t testing.TB, tables Tables, rows ...any) {
	t.Helper()
	const layer = uint8(model.LayerNode)
	for _, row := range rows {
		switch r := row.(type) {
		case Pod:
			put(t, tables, abi.Endpoints, r.Addr.As16(), abi.Endpoint{
				Ingress: uint64(r.Ingress), Egress: uint64(r.Egress), Incarnation: r.Incarnation, Layer: layer,
			})
		case model.Peer:
			put(t, tables, abi.Peers, r.Addr.As16(), abi.Identity{ID: uint32(r.Identity), Layer: layer})
		case model.Block:
			put(t, tables, abi.Blocks, keyOfPrefix(r.Prefix), abi.Identity{ID: uint32(r.Identity), Layer: layer})
		case model.Verdict:
			put(t, tables, abi.Verdicts, abi.VerdictKey{RuleSet: uint64(r.RuleSet), Identity: uint32(r.Identity)}, abi.Verdict{
				Ports: uint64(r.Ports), Rule: uint64(r.Rule), Action: uint8(r.Action), Layer: layer,
			})
		case model.PortVerdict:
			key := abi.PortVerdictKey{Bits: 80 + uint32(r.Bits), Protocol: uint8(r.Protocol), Port: abi.Port(r.Port)}
			binary.BigEndian.PutUint64(key.Ports[:], uint64(r.Ports))
			put(t, tables, abi.PortVerdicts, key, abi.PortVerdict{Rule: uint64(r.Rule), Action: uint8(r.Action), Layer: layer})
		case model.Network:
			put(t, tables, abi.Networks, keyOfPrefix(r.Prefix), abi.Network{Kind: uint8(r.Kind), Layer: layer})
		default:
			t.Fatalf("%T is no row of policy", row)
		}
	}
}

// RemovePod deletes the row of a pod's address.
func RemovePod(t testing.TB, tables Tables, addr netip.Addr) {
	t.Helper()
	if err := tables.Map(abi.Endpoints).Delete(abi.Encode(addr.As16())); err != nil {
		t.Fatalf("delete the endpoint %s: %v", addr, err)
	}
}

func keyOfPrefix(p netip.Prefix) abi.NetworkKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return abi.NetworkKey{Bits: uint32(bits), Addr: p.Addr().As16()}
}
