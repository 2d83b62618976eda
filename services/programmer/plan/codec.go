// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// row is what every table's row can do: name its key.
type row[K comparable] interface {
	comparable
	Key() K
}

// codec turns the rows of one table into entries of one map and back. Sets are not among them: what a map holds of a
// set has the count of its slots too.
type codec[K comparable, R row[K]] struct {
	*table[K, R]
	in    abi.Map
	key   func(*arena, K) []byte
	value func(*arena, R, model.LayerKind) []byte
	// readKey and read undo key and value as far as they can: what they make of foreign bytes is encoded again and
	// compared.
	readKey func(key []byte) K
	read    func(key K, value []byte) (R, model.LayerKind)
	text    func(*State, R) string
}

var frontends = &codec[model.FrontendKey, model.Frontend]{
	in: abi.Frontends,
	table: &table[model.FrontendKey, model.Frontend]{
		of: func(t *model.Tables) store[model.FrontendKey, model.Frontend] {
			return plain[model.FrontendKey, model.Frontend](t.Frontends)
		},
		puts:    func(r *model.Rows) *[]model.Frontend { return &r.Frontends },
		removes: func(k *model.Keys) *[]model.FrontendKey { return &k.Frontends },
	},
	key: (*arena).frontendKey, value: (*arena).frontend,
	readKey: func(b []byte) model.FrontendKey {
		return model.FrontendKey{
			Addr: abi.Addr([16]byte(b)), Port: binary.BigEndian.Uint16(b[16:]),
			Protocol: model.Protocol(b[18]), Match: model.Match(b[19]),
		}
	},
	read: func(k model.FrontendKey, b []byte) (model.Frontend, model.LayerKind) {
		return model.Frontend{
			FrontendKey: k, Set: model.SetID(binary.NativeEndian.Uint32(b)), Kind: model.FrontendKind(b[4]),
			Flags: model.FrontendFlags(binary.NativeEndian.Uint16(b[6:])),
		}, model.LayerKind(b[5])
	},
	text: func(s *State, f model.Frontend) string {
		return fmt.Sprintf("frontend %s → set %d (%s)", f.FrontendKey, f.Set, s.serviceOf(f.Set))
	},
}

var views = &codec[model.ViewKey, model.View]{
	in: abi.Views,
	table: &table[model.ViewKey, model.View]{
		of: func(t *model.Tables) store[model.ViewKey, model.View] {
			return plain[model.ViewKey, model.View](t.Views)
		},
		puts:    func(r *model.Rows) *[]model.View { return &r.Views },
		removes: func(k *model.Keys) *[]model.ViewKey { return &k.Views },
	},
	key: (*arena).viewKey, value: (*arena).view,
	readKey: func(b []byte) model.ViewKey {
		return model.ViewKey{
			Place: model.Place(binary.NativeEndian.Uint64(b)), Set: model.SetID(binary.NativeEndian.Uint32(b[8:])),
			Scope: model.Scope(b[12]),
		}
	},
	read: func(k model.ViewKey, b []byte) (model.View, model.LayerKind) {
		return model.View{ViewKey: k, Target: model.SetID(binary.NativeEndian.Uint32(b))}, model.LayerKind(b[4])
	},
	text: func(s *State, v model.View) string {
		return fmt.Sprintf("view of set %d (%s) of scope %d and place %x → set %d", v.Set, s.serviceOf(v.Target), v.Scope, uint64(v.Place), v.Target)
	},
}

var backends = &codec[model.BackendID, model.Backend]{
	in: abi.Backends,
	table: &table[model.BackendID, model.Backend]{
		of: func(t *model.Tables) store[model.BackendID, model.Backend] {
			return plain[model.BackendID, model.Backend](t.Backends)
		},
		puts:    func(r *model.Rows) *[]model.Backend { return &r.Backends },
		removes: func(k *model.Keys) *[]model.BackendID { return &k.Backends },
	},
	key: func(a *arena, id model.BackendID) []byte { return a.id(uint32(id)) }, value: (*arena).backend,
	readKey: func(b []byte) model.BackendID { return model.BackendID(binary.NativeEndian.Uint32(b)) },
	read: func(id model.BackendID, b []byte) (model.Backend, model.LayerKind) {
		return model.Backend{
			ID: id,
			BackendKey: model.BackendKey{
				Addr: abi.Addr([16]byte(b)), Place: model.Place(binary.NativeEndian.Uint64(b[16:])),
				Set: model.SetID(binary.NativeEndian.Uint32(b[24:])), Port: binary.BigEndian.Uint16(b[36:]),
			},
			State: model.BackendState(b[40]), Twin: model.BackendID(binary.NativeEndian.Uint32(b[32:])),
			Node: model.NodeID(binary.NativeEndian.Uint32(b[28:])), Weight: unshared(binary.NativeEndian.Uint16(b[38:])),
		}, model.LayerKind(b[41])
	},
	text: func(s *State, b model.Backend) string {
		return fmt.Sprintf("backend %d (%s port %d, state %d) of %s", b.ID, b.Addr, b.Port, b.State, s.serviceOf(b.Set))
	},
}

var nodes = &codec[model.NodeID, model.Node]{
	in: abi.Nodes,
	table: &table[model.NodeID, model.Node]{
		of: func(t *model.Tables) store[model.NodeID, model.Node] {
			return plain[model.NodeID, model.Node](t.Nodes)
		},
		puts:    func(r *model.Rows) *[]model.Node { return &r.Nodes },
		removes: func(k *model.Keys) *[]model.NodeID { return &k.Nodes },
	},
	key: func(a *arena, id model.NodeID) []byte { return a.id(uint32(id)) }, value: (*arena).node,
	readKey: func(b []byte) model.NodeID { return model.NodeID(binary.NativeEndian.Uint32(b)) },
	read: func(id model.NodeID, b []byte) (model.Node, model.LayerKind) {
		return model.Node{ID: id, V4: addrOrNone([16]byte(b)), V6: addrOrNone([16]byte(b[16:]))}, model.LayerKind(b[32])
	},
	text: func(_ *State, n model.Node) string { return fmt.Sprintf("node 0x%08x at %s", uint32(n.ID), n.Text()) },
}

var endpoints = &codec[netip.Addr, model.Endpoint]{
	in: abi.Endpoints,
	table: &table[netip.Addr, model.Endpoint]{
		of: func(t *model.Tables) store[netip.Addr, model.Endpoint] {
			return plain[netip.Addr, model.Endpoint](t.Endpoints)
		},
		puts:    func(r *model.Rows) *[]model.Endpoint { return &r.Endpoints },
		removes: func(k *model.Keys) *[]netip.Addr { return &k.Endpoints },
	},
	key: (*arena).addr, value: (*arena).endpoint,
	readKey: func(b []byte) netip.Addr { return abi.Addr([16]byte(b)) },
	read: func(addr netip.Addr, b []byte) (model.Endpoint, model.LayerKind) {
		return model.Endpoint{
			Addr: addr, Pod: abi.Text(b[24:]), Incarnation: binary.NativeEndian.Uint32(b[16:]),
			Ingress: model.RuleSetID(binary.NativeEndian.Uint64(b)), Egress: model.RuleSetID(binary.NativeEndian.Uint64(b[8:])),
		}, model.LayerKind(b[20])
	},
	text: func(_ *State, e model.Endpoint) string { return fmt.Sprintf("endpoint %s of pod %s", e.Addr, e.Pod) },
}

var sourceRanges = &codec[model.SourceRange, model.SourceRange]{
	in: abi.SourceRanges,
	table: &table[model.SourceRange, model.SourceRange]{
		of: func(t *model.Tables) store[model.SourceRange, model.SourceRange] {
			return plain[model.SourceRange, model.SourceRange](t.SourceRanges)
		},
		puts:    func(r *model.Rows) *[]model.SourceRange { return &r.SourceRanges },
		removes: func(k *model.Keys) *[]model.SourceRange { return &k.SourceRanges },
	},
	key: (*arena).sourceRangeKey,
	value: func(a *arena, _ model.SourceRange, kind model.LayerKind) []byte {
		b := a.take(4)
		b[0] = uint8(kind)
		return b
	},
	readKey: func(b []byte) model.SourceRange {
		return model.SourceRange{
			Set:    model.SetID(binary.BigEndian.Uint32(b[4:])),
			Prefix: prefix(binary.NativeEndian.Uint32(b)-32, [16]byte(b[8:])),
		}
	},
	read: func(r model.SourceRange, b []byte) (model.SourceRange, model.LayerKind) {
		return r, model.LayerKind(b[0])
	},
	text: func(s *State, r model.SourceRange) string {
		return fmt.Sprintf("source range %s of set %d (%s)", r.Prefix, r.Set, s.serviceOf(r.Set))
	},
}

var networks = &codec[netip.Prefix, model.Network]{
	in: abi.Networks,
	table: &table[netip.Prefix, model.Network]{
		of: func(t *model.Tables) store[netip.Prefix, model.Network] {
			return plain[netip.Prefix, model.Network](t.Networks)
		},
		puts:    func(r *model.Rows) *[]model.Network { return &r.Networks },
		removes: func(k *model.Keys) *[]netip.Prefix { return &k.Networks },
	},
	key: (*arena).prefix,
	value: func(a *arena, n model.Network, kind model.LayerKind) []byte {
		b := a.take(4)
		b[0], b[1] = uint8(n.Kind), uint8(kind)
		return b
	},
	readKey: func(b []byte) netip.Prefix { return prefix(binary.NativeEndian.Uint32(b), [16]byte(b[4:])) },
	read: func(p netip.Prefix, b []byte) (model.Network, model.LayerKind) {
		return model.Network{Prefix: p, Kind: model.NetworkKind(b[0])}, model.LayerKind(b[1])
	},
	text: func(_ *State, n model.Network) string { return fmt.Sprintf("network %s of kind %d", n.Prefix, n.Kind) },
}

var healthChecks = &codec[uint16, model.HealthCheck]{
	in: abi.HealthChecks,
	table: &table[uint16, model.HealthCheck]{
		of: func(t *model.Tables) store[uint16, model.HealthCheck] {
			return plain[uint16, model.HealthCheck](t.HealthChecks)
		},
		puts:    func(r *model.Rows) *[]model.HealthCheck { return &r.HealthChecks },
		removes: func(k *model.Keys) *[]uint16 { return &k.HealthChecks },
	},
	key: func(a *arena, port uint16) []byte { return a.id(uint32(port)) },
	value: func(a *arena, h model.HealthCheck, kind model.LayerKind) []byte {
		b := a.take(132)
		b[0] = uint8(kind)
		name(b[4:], h.Namespace, h.Name)
		return b
	},
	readKey: func(b []byte) uint16 { return uint16(binary.NativeEndian.Uint32(b)) },
	read: func(port uint16, b []byte) (model.HealthCheck, model.LayerKind) {
		h := model.HealthCheck{Port: port}
		h.Namespace, h.Name = unname(b[4:])
		return h, model.LayerKind(b[0])
	},
	text: func(_ *State, h model.HealthCheck) string {
		return fmt.Sprintf("health check at port %d of %s/%s", h.Port, h.Namespace, h.Name)
	},
}

var selves = &codec[model.SelfKey, model.Self]{
	in: abi.Selves,
	table: &table[model.SelfKey, model.Self]{
		of: func(t *model.Tables) store[model.SelfKey, model.Self] {
			return plain[model.SelfKey, model.Self](t.Selves)
		},
		puts:    func(r *model.Rows) *[]model.Self { return &r.Selves },
		removes: func(k *model.Keys) *[]model.SelfKey { return &k.Selves },
	},
	key: func(a *arena, _ model.SelfKey) []byte { return a.id(0) },
	value: func(a *arena, s model.Self, kind model.LayerKind) []byte {
		b := a.take(80)
		binary.NativeEndian.PutUint64(b, uint64(model.PlaceOf(s.Zone)))
		b[8] = uint8(kind)
		b[9], b[10] = flag(s.Draining), flag(s.Policed)
		copy(b[16:79], s.Zone)
		return b
	},
	readKey: func([]byte) model.SelfKey { return model.SelfKey{} },
	read: func(_ model.SelfKey, b []byte) (model.Self, model.LayerKind) {
		return model.Self{Zone: abi.Text(b[16:]), Draining: b[9] != 0, Policed: b[10] != 0}, model.LayerKind(b[8])
	},
	text: func(_ *State, s model.Self) string { return fmt.Sprintf("the node itself in zone %q", s.Zone) },
}

// mapped is a codec whose types don't matter to the caller.
type mapped interface {
	load(l *loader, key, value []byte) error
	expected(s *State, key []byte) []byte
	describe(s *State, key, value []byte) string
}

// codecs has all codecs; none for sets, slots and Maglev tables.
var codecs = [abi.MapCount]mapped{
	abi.Frontends: frontends, abi.Views: views, abi.Backends: backends, abi.Nodes: nodes, abi.Endpoints: endpoints,
	abi.SourceRanges: sourceRanges, abi.Networks: networks, abi.HealthChecks: healthChecks, abi.Selves: selves,
	abi.Peers: peers, abi.Blocks: blocks, abi.Verdicts: verdicts, abi.PortVerdicts: portVerdicts,
	abi.RuleSets: ruleSets, abi.Rules: rules,
}

// decode accepts exactly what the encoders make: an entry with a foreign layer, a padding byte set or an IPv4-mapped
// address where there should be none does not come from this program.
func (c *codec[K, R]) decode(sc *scratch, key, value []byte) (R, model.LayerKind, error) {
	k := c.readKey(key)
	r, kind := c.read(k, value)
	a := sc.arena()
	return r, kind, ours(kind, key, c.key(a, k), value, c.value(a, r, kind))
}

func (c *codec[K, R]) load(l *loader, key, value []byte) error {
	r, kind, err := c.decode(&l.scratch, key, value)
	if err == nil {
		c.of(l.tables[kind]).Put(r)
	}
	return err
}

func (c *codec[K, R]) expected(s *State, key []byte) []byte {
	k := c.readKey(key)
	a := s.scratch.arena()
	if !bytes.Equal(c.key(a, k), key) {
		return nil
	}
	if r, kind := c.held(s, k); kind != 0 {
		return c.value(a, r, kind)
	}
	return nil
}

// held returns the row of a key and its layer; layer 0 if there is none.
func (c *codec[K, R]) held(s *State, key K) (R, model.LayerKind) {
	for _, kind := range kinds {
		if r, held := c.of(s.tables[kind]).Get(key); held {
			return r, kind
		}
	}
	var none R
	return none, 0
}

func (c *codec[K, R]) describe(s *State, key, value []byte) string {
	r, kind, err := c.decode(&s.scratch, key, value)
	if err != nil {
		return ""
	}
	return c.text(s, r) + " of layer " + word(kind)
}

func (c *codec[K, R]) names(s *State, rows *model.Rows) (names []string) {
	for _, r := range *c.puts(rows) {
		names = append(names, c.text(s, r))
	}
	return names
}
