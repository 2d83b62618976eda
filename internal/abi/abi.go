// SPDX-License-Identifier: Apache-2.0

// Package abi has the keys and values of the BPF maps as Go types and turns them into the bytes that the kernel
// holds and back. It is the twin of bpf/include/abi.h: a test of package bpf compares sizes and offsets with the
// BTF of the compiled programs. It is pure, so that the programmer's plan can be made and tested without a kernel.
//
// Addresses are 16 bytes, IPv4 mapped. Ports are in network byte order, all else in the host's.
package abi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Map is one of the maps that user space writes and the programs read.
type Map uint8

// The maps, in the order in which a row of one may point at a row of another: an earlier one at a later one.
const (
	Frontends    Map = iota // FrontendKey → Frontend
	Views                   // ViewKey → View
	Sets                    // set id → BackendSet
	Slots                   // SlotKey → backend id
	Backends                // backend id → Backend
	Nodes                   // node's number → Node
	MaglevIndex             // set id → number of its Maglev table
	Endpoints               // address → Endpoint
	SourceRanges            // SourceRangeKey → SourceRange
	Networks                // NetworkKey → Network
	HealthChecks            // port → HealthCheck
	Selves                  // 0 → Self
	Peers                   // address → Identity
	Blocks                  // NetworkKey → Identity
	Verdicts                // VerdictKey → Verdict
	PortVerdicts            // PortVerdictKey → PortVerdict
	RuleSets                // rule set id → RuleSet
	Rules                   // rule id → Rule
	MapCount
)

// Layout is a map's name and the sizes of its keys and values.
type Layout struct {
	Name      string // as in the kernel; the suffix is the layout's version
	KeySize   int
	ValueSize int
}

// Layouts has the layout of each Map.
var Layouts = [MapCount]Layout{
	Frontends:    {"frontends_v2", 20, 8},
	Views:        {"views_v1", 16, 8},
	Sets:         {"sets_v2", 4, 160},
	Slots:        {"slots_v1", 8, 4},
	Backends:     {"backends_v3", 4, 48},
	Nodes:        {"nodes_v1", 4, 40},
	MaglevIndex:  {"maglev_index_v1", 4, 4},
	Endpoints:    {"endpoints_v2", 16, 344},
	SourceRanges: {"source_ranges_v1", 24, 4},
	Networks:     {"networks_v1", 20, 4},
	HealthChecks: {"health_checks_v1", 4, 132},
	Selves:       {"self_v1", 4, 80},
	Peers:        {"peers_v1", 16, 8},
	Blocks:       {"blocks_v1", 20, 8},
	Verdicts:     {"verdicts_v1", 16, 24},
	PortVerdicts: {"port_verdicts_v1", 16, 16},
	RuleSets:     {"rule_sets_v1", 8, 264},
	Rules:        {"rules_v1", 8, 432},
}

// OfPolicy says whether programs read a map, or user space keeps it, to judge connections.
func (m Map) OfPolicy() bool { return m == Endpoints || m >= Peers && m <= Rules }

// String returns the map's name.
func (m Map) String() string { return Layouts[m].Name }

// FrontendKey is struct frontend_key.
type FrontendKey struct {
	Addr     [16]byte
	Port     [2]byte
	Protocol uint8
	Match    uint8
}

// Frontend is struct frontend.
type Frontend struct {
	Set   uint32
	Kind  uint8
	Layer uint8
	Flags uint16
}

// BackendSet is struct backend_set.
type BackendSet struct {
	Count    uint32
	Port     uint16
	Protocol uint8
	Family   uint8
	Scope    uint8
	Layer    uint8
	Flags    uint8
	_        uint8
	Root     uint32
	Place    uint64
	Affinity uint32
	_        uint32
	Service  [128]byte
}

// ViewKey is struct view_key.
type ViewKey struct {
	Place uint64
	Set   uint32
	Scope uint8
	_     [3]uint8
}

// View is struct view.
type View struct {
	Set   uint32
	Layer uint8
	_     [3]uint8
}

// SlotKey is struct slot_key.
type SlotKey struct {
	Set   uint32
	Index uint32
}

// Backend is struct backend.
type Backend struct {
	Addr   [16]byte
	Place  uint64
	Set    uint32
	Node   uint32
	Twin   uint32
	Port   [2]byte
	Weight uint16
	State  uint8
	Layer  uint8
	_      [6]uint8
}

// Node is struct node; an address that is zero is none.
type Node struct {
	V4, V6 [16]byte
	Layer  uint8
	_      [7]uint8
}

// Endpoint is struct endpoint.
type Endpoint struct {
	Ingress     uint64
	Egress      uint64
	Incarnation uint32
	Layer       uint8
	_           [3]uint8
	Pod         [320]byte
}

// SourceRangeKey is struct source_range_key.
type SourceRangeKey struct {
	Bits uint32
	Set  [4]byte // big endian
	Addr [16]byte
}

// SourceRange is struct source_range.
type SourceRange struct {
	Layer uint8
	_     [3]uint8
}

// NetworkKey is struct network_key.
type NetworkKey struct {
	Bits uint32
	Addr [16]byte
}

// Network is struct network.
type Network struct {
	Kind  uint8
	Layer uint8
	_     uint16
}

// HealthCheck is struct health_check.
type HealthCheck struct {
	Layer   uint8
	_       [3]uint8
	Service [128]byte
}

// Self is struct self.
type Self struct {
	Place    uint64
	Layer    uint8
	Draining uint8
	Policed  uint8
	_        [5]uint8
	Zone     [64]byte
}

// Identity is struct identity.
type Identity struct {
	ID    uint32
	Layer uint8
	_     [3]uint8
}

// VerdictKey is struct verdict_key.
type VerdictKey struct {
	RuleSet  uint64
	Identity uint32
	_        uint32
}

// Verdict is struct verdict.
type Verdict struct {
	Ports  uint64
	Rule   uint64
	Action uint8
	Layer  uint8
	_      [6]uint8
}

// PortVerdictKey is struct port_verdict_key.
type PortVerdictKey struct {
	Bits     uint32
	Ports    [8]byte // big endian
	Protocol uint8
	_        uint8
	Port     [2]byte
}

// PortVerdict is struct port_verdict.
type PortVerdict struct {
	Rule   uint64
	Action uint8
	Layer  uint8
	_      [6]uint8
}

// RuleSet is struct rule_set.
type RuleSet struct {
	Direction uint8
	Layer     uint8
	_         [6]uint8
	Policies  [256]byte
}

// Rule is struct rule.
type Rule struct {
	Index     uint16
	Kind      uint8
	Direction uint8
	Action    uint8
	Layer     uint8
	_         [2]uint8
	Policy    [320]byte
	Name      [104]byte
}

// ConnectionKey is struct connection_key.
type ConnectionKey struct {
	Pod      [16]byte
	Peer     [16]byte
	PodPort  [2]byte
	PeerPort [2]byte
	Protocol uint8
	_        [3]uint8
}

// Connection is struct connection.
type Connection struct {
	RuleSet     uint64
	Rule        uint64
	Epoch       uint32
	Seen        uint32
	Incarnation uint32
	State       uint8
	_           uint8
	Interface   uint16
}

// The bits of a Connection's state.
const (
	ConnectionIngress  uint8 = 1  // the peer began it; else the pod did
	ConnectionAnswered uint8 = 2  // something came from who did not begin it
	ConnectionPodFin   uint8 = 4  // the pod has ended its direction
	ConnectionPeerFin  uint8 = 8  // the peer has
	ConnectionReset    uint8 = 16 // a RST was seen and nothing since
	ConnectionRefused  uint8 = 32 // one answer to what the pod sent may pass; with epoch 0 the entry is no connection
	// ConnectionPodRefused is the same of what was sent to the pod.
	ConnectionPodRefused uint8 = 64
)

// Local is struct local: an address of the node.
type Local struct {
	Flags uint8
	_     [3]uint8
}

// The flags of a Local.
const (
	LocalNodePort uint8 = 1 // serves NodePorts
	LocalLoopback uint8 = 2 // 127.0.0.0/8 or ::1
)

// UplinkAny stands in place of an interface's index for the node's addresses where the way out does not matter yet:
// those of the default route's interface.
const UplinkAny uint32 = 0

// Uplink is struct uplink: what leaves by an interface is masqueraded with these addresses.
type Uplink struct {
	V4, V6 [16]byte
}

// Position is struct position.
type Position struct {
	Epoch    uint64
	Revision uint64
	Digest   [2]uint64
}

// DropEvent is struct drop_event.
type DropEvent struct {
	Time            uint64 // CLOCK_MONOTONIC, ns
	Source          [16]byte
	Destination     [16]byte
	SourcePort      [2]byte
	DestinationPort [2]byte
	Set             uint32
	Protocol        uint8
	Reason          uint8
	Via             uint8
	Direction       uint8 // of policy: 1 ingress, 2 egress; else 0
	_               uint32
	RuleSet         uint64 // of policy; else 0
	Rule            uint64 // that decided; 0: none
}

// CountKey is struct count_key: what is counted of a Service.
type CountKey struct {
	Set        uint32 // the root
	Reason     uint8  // of a drop; 0: of a flow that began by an uplink
	Forwarding Forwarding
	_          [2]uint8
}

// Forwarding says how the packets of a flow go on that began; 0 of a drop.
type Forwarding uint8

// The ways of Forwarding.
const (
	ForwardedLocal  Forwarding = iota + 1 // to a backend of this node
	ForwardedTunnel                       // wrapped, and answered through this node
	ForwardedDSR                          // wrapped, and answered by the backend's node itself
	ForwardedSNAT                         // elsewhere, in the node's name
)

// String returns a word for it.
func (f Forwarding) String() string {
	words := [...]string{"none", "local", "tunnel", "dsr", "snat"}
	if int(f) < len(words) {
		return words[f]
	}
	return fmt.Sprintf("forwarding(%d)", uint8(f))
}

// Encode returns the bytes of one of this package's types, or of a uint32.
func Encode(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(fmt.Sprintf("abi: %T has no fixed size: %v", v, err))
	}
	return b
}

// Decode reads into v, a pointer to one of this package's types or to a uint32, what Encode made.
func Decode(b []byte, v any) error {
	if n := binary.Size(v); n != len(b) {
		return fmt.Errorf("%T takes %d bytes, not %d", v, n, len(b))
	}
	_, err := binary.Decode(b, binary.NativeEndian, v)
	return err
}

// Port returns a port as the maps hold it.
func Port(p uint16) (b [2]byte) {
	binary.BigEndian.PutUint16(b[:], p)
	return b
}

// HostPort reads what Port makes.
func HostPort(b [2]byte) uint16 { return binary.BigEndian.Uint16(b[:]) }

// Addr reads a 16-byte address; an IPv4-mapped one comes out as IPv4.
func Addr(b [16]byte) netip.Addr { return netip.AddrFrom16(b).Unmap() }

// KeyOfFrontend returns the key that the maps hold for k.
func KeyOfFrontend(k model.FrontendKey) FrontendKey {
	return FrontendKey{Addr: k.Addr.As16(), Port: Port(k.Port), Protocol: uint8(k.Protocol), Match: uint8(k.Match)}
}

// Text reads a NUL-terminated string. What a person has made of it may not be UTF-8, and no message takes such: it is given
// back as something else.
func Text(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(text), "\uFFFD")
}
