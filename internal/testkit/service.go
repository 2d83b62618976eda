// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Tables gives the maps that user space writes; a *bpf.Dataplane does.
type Tables interface {
	Map(m abi.Map) *ebpf.Map
}

// Service is one ServicePort as the maps hold it.
type Service struct {
	Set       uint32
	Protocol  model.Protocol
	Frontends []netip.AddrPort
	Backends  map[uint32]netip.AddrPort // by id
}

// Put writes services into the maps in an order that a running program may watch: what is pointed at first. A
// Service written before loses the slots it has no more.
func Put(t testing.TB, tables Tables, services ...Service) {
	t.Helper()
	for _, s := range services {
		slots := uint32(0)
		for id, b := range s.Backends {
			put(t, tables, abi.Backends, id, abi.Backend{
				Addr: b.Addr().As16(), Port: abi.Port(b.Port()), Set: s.Set,
				Weight: 1, State: uint8(model.BackendActive), Layer: uint8(model.LayerCluster),
			})
			put(t, tables, abi.Slots, abi.SlotKey{Set: s.Set, Index: slots}, id)
			slots++
		}
		put(t, tables, abi.Sets, s.Set, abi.BackendSet{Count: slots, Protocol: uint8(s.Protocol), Layer: uint8(model.LayerCluster)})
		for _, f := range s.Frontends {
			key := model.FrontendKey{Addr: f.Addr(), Port: f.Port(), Protocol: s.Protocol}
			put(t, tables, abi.Frontends, abi.KeyOfFrontend(key), abi.Frontend{
				Set: s.Set, Kind: uint8(model.FrontendClusterIP), Layer: uint8(model.LayerCluster),
			})
		}
	}
}

// RemoveBackend deletes a backend's row.
func RemoveBackend(t testing.TB, tables Tables, id uint32) {
	t.Helper()
	if err := tables.Map(abi.Backends).Delete(abi.Encode(id)); err != nil {
		t.Fatalf("delete backend %d: %v", id, err)
	}
}

func put(t testing.TB, tables Tables, m abi.Map, key, value any) {
	t.Helper()
	if err := tables.Map(m).Put(abi.Encode(key), abi.Encode(value)); err != nil {
		t.Fatalf("put %v into %s: %v", key, m, err)
	}
}
