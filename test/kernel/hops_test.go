// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/internal/lab/capture"
	"github.com/deltaplane/deltaplane/internal/model"
)

// The tunnel between nodes, as programmers set it up unless they are told otherwise.
const (
	tunnelPort = 8475
	tunnelVNI  = 0xde17
	vxlanBytes = 8
)

// hop is a frame as one end of a link sent or got it, without what wraps it.
type hop struct {
	out      bool
	from, to netip.AddrPort
	ttl      uint8 // or hop limit
	wrapped  *wrapping
}

// wrapping is what one node says to another with a packet of a client or of a backend.
type wrapping struct {
	from, to netip.Addr
	ttl      uint8
	sender   model.NodeID
	backend  uint32 // 0: an answer
}

// hopOf reads a frame, and fails if anything that sums it up is wrong; none if it is no TCP and no UDP.
func hopOf(t testing.TB, f capture.Frame) (hop, bool) {
	t.Helper()
	h, rest, ok := ends(t, f.Bytes)
	if !ok {
		return hop{}, false
	}
	h.out = f.Out
	if h.to.Port() != tunnelPort || rest == nil {
		return h, true
	}
	w := &wrapping{from: h.from.Addr(), to: h.to.Addr(), ttl: h.ttl}
	if len(rest) < vxlanBytes+14 || rest[0] != 8 || binary.BigEndian.Uint32(rest[4:]) != tunnelVNI<<8 {
		return hop{}, false // somebody else's tunnel
	}
	inner := rest[vxlanBytes:]
	if inner[0] != 2 || inner[1] != 0xde || inner[6] != 2 || inner[7] != 0xde {
		t.Fatalf("the wrapped frame is from %x to %x, which tells nothing", inner[6:12], inner[:6])
	}
	w.backend, w.sender = binary.BigEndian.Uint32(inner[2:]), model.NodeID(binary.BigEndian.Uint32(inner[8:]))
	if h, _, ok = ends(t, inner); !ok {
		t.Fatalf("wrapped is %x, no packet of a connection", inner)
	}
	h.out, h.wrapped = f.Out, w
	return h, true
}

// ends reads a frame's addresses, and what is behind its UDP header.
func ends(t testing.TB, frame []byte) (h hop, rest []byte, ok bool) {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		h.ttl = ip.TTL
	case *layers.IPv6:
		h.ttl = ip.HopLimit
	default:
		return hop{}, nil, false
	}
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		check(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
	case *layers.UDP:
		check(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		rest = l.Payload
	default:
		return hop{}, nil, false
	}
	from, to := p.NetworkLayer().NetworkFlow().Endpoints()
	sourcePort, port := p.TransportLayer().TransportFlow().Endpoints()
	at := func(addr, port gopacket.Endpoint) netip.AddrPort {
		a, _ := netip.AddrFromSlice(addr.Raw())
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port.Raw()))
	}
	h.from, h.to = at(from, sourcePort), at(to, port)
	return h, rest, true
}

// summedUp fails unless all checksums of a frame are right, those of what it wraps too.
func summedUp(t testing.TB, f capture.Frame) {
	t.Helper()
	if f.Unsummed {
		t.Errorf("a checksum isn't filled in: %x", f.Bytes)
		return
	}
	p := decode(t, f.Bytes)
	if udp, ok := p.TransportLayer().(*layers.UDP); ok && udp.DstPort == tunnelPort && len(udp.Payload) > vxlanBytes {
		decode(t, udp.Payload[vxlanBytes:])
	}
}

// taps are captures at the links that a connection may pass, in the order of a client's packet.
type taps struct {
	names []string
	all   []*capture.Capture
}

func (s *scene) tap(t *testing.T, places ...string) *taps {
	t.Helper()
	x := &taps{names: places}
	for _, place := range places {
		c, err := s.Capture(place)
		check(t, err)
		t.Cleanup(func() { c.Close() })
		x.all = append(x.all, c)
	}
	return x
}

// crossed is what of one connection passed one link: each kind of hop once, in order.
type crossed struct {
	at   string
	hops []hop
}

// passages returns what has passed since the last time, by the client's port, which no two connections share.
func (x *taps) passages(t *testing.T, client func(port uint16) bool) map[uint16][]crossed {
	t.Helper()
	by := map[uint16][]crossed{}
	for i, c := range x.all {
		frames, err := c.Frames()
		check(t, err)
		here := map[uint16][]hop{}
		for _, f := range frames {
			h, ok := hopOf(t, f)
			if !ok {
				continue
			}
			port := h.from.Port()
			if !client(port) {
				port = h.to.Port()
			}
			if !client(port) {
				continue
			}
			summedUp(t, f)
			if !slices.ContainsFunc(here[port], h.same) {
				here[port] = append(here[port], h)
			}
		}
		for port, hops := range here {
			by[port] = append(by[port], crossed{x.names[i], hops})
		}
	}
	return by
}

func (h hop) same(o hop) bool {
	if (h.wrapped == nil) != (o.wrapped == nil) || h.wrapped != nil && *h.wrapped != *o.wrapped {
		return false
	}
	h.wrapped, o.wrapped = nil, nil
	return h == o
}

// names turns addresses into the words of the table.
type names map[netip.Addr]string

func (n names) of(a netip.AddrPort, ports map[uint16]string) string {
	return fmt.Sprintf("%s:%s", n[a.Addr()], ports[a.Port()])
}
