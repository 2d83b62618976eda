// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// segment is what a test says about a packet; the rest is filled in.
type segment struct {
	from, to       string // address:port
	udp, sctp      bool
	syn, ack, rst  bool
	fin            bool
	seq, acked     uint32
	payload        int
	v4Options      bool
	noUDPChecksum  bool
	moreFragments  bool
	hopByHop       bool
	wrongLength    bool
	sourceMAC, dst net.HardwareAddr
}

// frame returns the packet's bytes, Ethernet header first.
func (s segment) frame(t testing.TB) []byte {
	t.Helper()
	from, to := netip.MustParseAddrPort(s.from), netip.MustParseAddrPort(s.to)
	eth := &layers.Ethernet{SrcMAC: s.sourceMAC, DstMAC: s.dst, EthernetType: layers.EthernetTypeIPv4}
	if s.sourceMAC == nil {
		eth.SrcMAC, eth.DstMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	}
	stack := []gopacket.SerializableLayer{eth}
	protocol := layers.IPProtocolTCP
	switch {
	case s.udp:
		protocol = layers.IPProtocolUDP
	case s.sctp:
		protocol = layers.IPProtocolSCTP
	}
	var network gopacket.NetworkLayer
	if from.Addr().Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: protocol, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		if s.v4Options {
			ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}} // router alert
		}
		if s.moreFragments {
			ip.Flags = layers.IPv4MoreFragments
		}
		network, stack = ip, append(stack, ip)
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		network, stack = ip, append(stack, ip)
		if s.moreFragments || s.hopByHop {
			ip.NextHeader = layers.IPProtocolIPv6Destination
			extension := []byte{byte(protocol), 0, 1, 4, 0, 0, 0, 0}
			if s.moreFragments {
				ip.NextHeader = layers.IPProtocolIPv6Fragment
				extension = []byte{byte(protocol), 0, 0, 1, 0, 0, 0, 7}
			}
			stack = append(stack, gopacket.Payload(extension))
		}
	}
	switch {
	case s.udp:
		udp := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
		check(t, udp.SetNetworkLayerForChecksum(network))
		stack = append(stack, udp)
	case s.sctp:
		stack = append(stack, &layers.SCTP{SrcPort: layers.SCTPPort(from.Port()), DstPort: layers.SCTPPort(to.Port())})
	default:
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Seq: s.seq, Ack: s.acked,
			SYN: s.syn, ACK: s.ack, RST: s.rst, FIN: s.fin, Window: 1000,
		}
		check(t, tcp.SetNetworkLayerForChecksum(network))
		stack = append(stack, tcp)
	}
	payload := make([]byte, s.payload)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	stack = append(stack, gopacket.Payload(payload))
	buffer := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...))
	b := buffer.Bytes()
	if s.noUDPChecksum {
		b[14+20+6], b[14+20+7] = 0, 0
	}
	if s.wrongLength {
		b[16], b[17] = 0xff, 0xff
	}
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seen is a packet's addresses and its layers, after its checksums were found right.
type seen struct {
	from, to string
	gopacket.Packet
}

func decode(t testing.TB, b []byte) seen {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("packet %x: %v", b, e.Error())
	}
	for _, layer := range p.Layers() {
		if l, ok := layer.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			check(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		}
	}
	wrong, mismatches := p.VerifyChecksums()
	if wrong != nil || len(mismatches) > 0 {
		t.Fatalf("checksums of %v: %v %+v", p, wrong, mismatches)
	}
	s := seen{Packet: p}
	if p.NetworkLayer() == nil {
		return s
	}
	from, to := p.NetworkLayer().NetworkFlow().Endpoints()
	s.from, s.to = from.String(), to.String()
	if p.TransportLayer() != nil {
		sp, dp := p.TransportLayer().TransportFlow().Endpoints()
		s.from, s.to = net.JoinHostPort(s.from, sp.String()), net.JoinHostPort(s.to, dp.String())
	}
	return s
}
