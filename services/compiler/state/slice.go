// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strings"
	"unique"

	"github.com/deltaplane/deltaplane/internal/model"
)

// Slice is a part of a Service's endpoints: one Kubernetes EndpointSlice.
type Slice struct {
	Name
	Service string // in the slice's namespace; empty if the slice is of no Service
	Family  model.Family
	Ports   []Port
	Weight  uint16 // of its endpoints, 1 to model.MaxWeight

	// packed has one record of stride bytes an endpoint:
	//
	//	address (4 or 16 bytes) | flags (1) | index of the node's name (2) | of the zone's (2) | of the hints (2)
	packed string
	// names has each node's and zone's name once, interned over all slices. The first is that of none.
	names []unique.Handle[named]
	// hints has each combination of hints once, interned too. hints[0] is none.
	hints []unique.Handle[string]
}

// named is the name of a node or a zone, with the number that it has as a node's. A zone's is never read,
// so zones may well have one number; the hash for it takes 0.2 µs, once for each zone of a slice.
type named struct {
	name   string
	number model.NodeID
}

var noName = unique.Make(named{})

// Endpoint is one endpoint of a Slice.
type Endpoint struct {
	Addr                        netip.Addr
	Ready, Serving, Terminating bool
	Node, Zone                  string
	Number                      model.NodeID // of Node; 0 if that isn't known
	Hints                       *Hints       // never nil, shared, not to be changed
}

// Hints are the zones and nodes whose clients should use an endpoint. Lists are sorted.
type Hints struct {
	Zones, Nodes []string
}

// Between lists, and between names of a list; neither is in a name.
const (
	listEnd = "\x00"
	nameEnd = "\x01"
)

func (h *Hints) pack() unique.Handle[string] {
	if len(h.Zones)+len(h.Nodes) == 0 {
		return noHints
	}
	return unique.Make(strings.Join(h.Zones, nameEnd) + listEnd + strings.Join(h.Nodes, nameEnd))
}

var noHints = unique.Make("")

func unpackHints(packed unique.Handle[string]) Hints {
	zones, nodes, _ := strings.Cut(packed.Value(), listEnd)
	return Hints{splitHints(zones), splitHints(nodes)}
}

func splitHints(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, nameEnd)
}

const (
	flagReady = 1 << iota
	flagServing
	flagTerminating
)

// recordTail is what of a record comes after the address.
const recordTail = 1 + 2 + 2 + 2

// ServiceName names the Service that the slice is a part of.
func (s *Slice) ServiceName() Name { return Name{s.Namespace, s.Service} }

// Len returns the number of endpoints.
func (s *Slice) Len() int { return len(s.packed) / s.stride() }

// Endpoints iterates over the endpoints in the order they came.
func (s *Slice) Endpoints() iter.Seq[Endpoint] {
	return func(yield func(Endpoint) bool) {
		hints := make([]Hints, len(s.hints))
		for i, packed := range s.hints {
			hints[i] = unpackHints(packed)
		}
		for i := range s.Len() {
			if !yield(s.endpoint(i, hints)) {
				return
			}
		}
	}
}

func (s *Slice) stride() int {
	if s.Family == model.IPv6 {
		return 16 + recordTail
	}
	return 4 + recordTail
}

func (s *Slice) endpoint(i int, hints []Hints) Endpoint {
	record := s.packed[i*s.stride() : (i+1)*s.stride()]
	size := len(record) - recordTail
	addr, _ := netip.AddrFromSlice([]byte(record[:size]))
	flags, tail := record[size], []byte(record[size+1:])
	node := s.names[binary.BigEndian.Uint16(tail)].Value()
	return Endpoint{
		Addr:        addr,
		Ready:       flags&flagReady != 0,
		Serving:     flags&flagServing != 0,
		Terminating: flags&flagTerminating != 0,
		Node:        node.name,
		Number:      node.number,
		Zone:        s.names[binary.BigEndian.Uint16(tail[2:])].Value().name,
		Hints:       &hints[binary.BigEndian.Uint16(tail[4:])],
	}
}

// packer makes the packed form of endpoints of one family.
type packer struct {
	packed []byte
	names  []unique.Handle[named]
	index  map[string]uint16
	hints  []unique.Handle[string]
	hinted map[unique.Handle[string]]uint16
}

func newPacker(endpoints int, family model.Family) *packer {
	stride := (&Slice{Family: family}).stride()
	return &packer{
		packed: make([]byte, 0, endpoints*stride), names: []unique.Handle[named]{noName}, index: map[string]uint16{"": 0},
		hints: []unique.Handle[string]{noHints}, hinted: map[unique.Handle[string]]uint16{noHints: 0},
	}
}

func (p *packer) add(e Endpoint) {
	var flags byte
	if e.Ready {
		flags |= flagReady
	}
	if e.Serving {
		flags |= flagServing
	}
	if e.Terminating {
		flags |= flagTerminating
	}
	p.packed = append(p.packed, e.Addr.AsSlice()...)
	p.packed = append(p.packed, flags)
	p.packed = binary.BigEndian.AppendUint16(p.packed, p.nameIndex(e.Node))
	p.packed = binary.BigEndian.AppendUint16(p.packed, p.nameIndex(e.Zone))
	p.packed = binary.BigEndian.AppendUint16(p.packed, p.hintsIndex(e.Hints))
}

func (p *packer) hintsIndex(h *Hints) uint16 {
	packed := h.pack()
	i, known := p.hinted[packed]
	if !known {
		i = uint16(len(p.hints))
		p.hinted[packed] = i
		p.hints = append(p.hints, packed)
	}
	return i
}

// nameIndex fits: MaxEndpoints endpoints have at most twice as many names.
func (p *packer) nameIndex(name string) uint16 {
	i, known := p.index[name]
	if !known {
		i = uint16(len(p.names))
		p.index[name] = i
		p.names = append(p.names, unique.Make(named{name, model.NodeIDOf(name)}))
	}
	return i
}
