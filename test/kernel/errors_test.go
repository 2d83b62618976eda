// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
)

// icmpError returns an error from a router or a host that quotes a packet, Ethernet header first.
func icmpError(t testing.TB, from, to string, kind uint8, quote []byte) []byte {
	t.Helper()
	source, destination := netip.MustParseAddr(from), netip.MustParseAddr(to)
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	var stack []gopacket.SerializableLayer
	if source.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()}
		stack = append(stack, eth, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 4), Seq: 1400})
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		check(t, icmp.SetNetworkLayerForChecksum(ip))
		stack = append(stack, eth, ip, icmp)
		quote = append([]byte{0, 0, 5, 120}, quote...) // MTU 1400
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	check(t, gopacket.SerializeLayers(buffer, options, append(stack, gopacket.Payload(quote))...))
	return buffer.Bytes()
}

// Row 20: an ICMP error about what was sent to a backend reaches the client as one about what it sent to the
// Service.
// Trap 2: the outer header, the quoted one and all three checksums are put right.
// Trap 3: that holds too where eight bytes of the transport header are all that is quoted.
func TestErrorsQuoteWhatTheClientSent(t *testing.T) {
	for _, c := range []struct {
		client, service, backend, router string
		kinds                            []uint8
		shortest                         int // what a quote has at least: the IP header and eight bytes
	}{
		{"10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1", "10.1.0.254", []uint8{3, 11, 12}, 28},
		{"[fd00:1::9]:40000", "[fd00:96::1]:80", "fd00:1::1", "fd00:1::fe", []uint8{1, 2, 3, 4}, 48},
	} {
		for _, sent := range []segment{{syn: true}, {udp: true, payload: 40}, {udp: true, payload: 40, noUDPChecksum: c.shortest == 28}} {
			sent.from, sent.to = c.client, c.service
			protocol := model.TCP
			if sent.udp {
				protocol = model.UDP
			}
			plane := newPlane(t, oneService(protocol)...)
			original := sent.frame(t)
			_, translated, err := plane.RunFromPod(original, 0)
			check(t, err)
			client, service := netip.MustParseAddrPort(c.client).Addr().String(), netip.MustParseAddrPort(c.service).Addr().String()
			for _, kind := range c.kinds {
				for _, length := range []int{c.shortest, c.shortest + 8, c.shortest + 10, len(original) - 14} {
					for from, seenFrom := range map[string]string{c.router: c.router, c.backend: service} {
						packet := icmpError(t, from, client, kind, translated[14:14+length])
						verdict, out, err := plane.RunToPod(packet, 0)
						check(t, err)
						got := decode(t, out)
						if verdict != bpf.Pass || got.from != seenFrom || got.to != client {
							t.Errorf("%v, %s → %s, want %s → %s", verdict, got.from, got.to, seenFrom, client)
						}
						quote := out[len(packet)-length:]
						want := original[14 : 14+length]
						if diff := cmp.Diff(want, quote[:length]); diff != "" {
							t.Errorf("type %d of %s, %d bytes quoted: %s", kind, from, length, diff)
						}
					}
				}
			}
		}
	}
}

// TestErrorsAboutAnswersReachTheBackend: a router, or the client itself, on what came from a Service.
//
// Row 20: an ICMP error about an answer reaches the backend as one about what the backend sent.
// Trap 3: of a quote that ends early only what is there is changed.
func TestErrorsAboutAnswersReachTheBackend(t *testing.T) {
	for _, c := range []struct{ client, service, backend, router string }{
		{"10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1:8080", "10.1.0.254"},
		{"[fd00:1::9]:40000", "[fd00:96::1]:80", "[fd00:1::1]:8080", "fd00:1::fe"},
	} {
		plane := newPlane(t, oneService(model.UDP)...)
		fromPod(t, plane, segment{from: c.client, to: c.service, udp: true})
		answer := segment{from: c.backend, to: c.client, udp: true, payload: 40}
		_, seen, err := plane.RunToPod(answer.frame(t), 0)
		check(t, err)
		service, client := netip.MustParseAddrPort(c.service).Addr().String(), netip.MustParseAddrPort(c.client).Addr().String()
		for _, from := range []string{c.router, client} {
			for _, cut := range []int{0, 20} {
				packet := icmpError(t, from, service, 3, seen[14:len(seen)-cut])
				verdict, out, err := plane.RunFromPod(packet, 0)
				check(t, err)
				got := decode(t, out)
				backend := netip.MustParseAddrPort(c.backend).Addr().String()
				if verdict != bpf.Pass || got.from != from || got.to != backend {
					t.Errorf("%v, %s → %s, want %s → %s", verdict, got.from, got.to, from, backend)
				}
				want := answer.frame(t)[14:]
				want = want[:len(want)-cut]
				if diff := cmp.Diff(want, out[len(out)-len(want):]); diff != "" {
					t.Errorf("of %s, %d bytes missing: %s", from, cut, diff)
				}
			}
		}
	}
}

// TestErrorsWithOptionsAreTranslated has them in the error, in what it quotes, and in both.
//
// Trap 6: errors are translated with IPv4 options and IPv6 extension headers in the error, in the quote and in both.
func TestErrorsWithOptionsAreTranslated(t *testing.T) {
	for _, c := range []struct{ client, service, backend, router string }{
		{"10.1.0.9:40000", "10.96.0.1:80", "10.1.0.1:8080", "10.1.0.254"},
		{"[fd00:1::9]:40000", "[fd00:96::1]:80", "[fd00:1::1]:8080", "fd00:1::fe"},
	} {
		plane := newPlane(t, oneService(model.UDP)...)
		sent := segment{from: c.client, to: c.service, udp: true, payload: 40}.frame(t)
		became := segment{from: c.client, to: c.backend, udp: true, payload: 40}.frame(t)
		_, _, err := plane.RunFromPod(sent, 0)
		check(t, err)
		client := netip.MustParseAddrPort(c.client).Addr().String()
		for _, outer := range []int{0, 8, 40} {
			for _, inner := range []int{0, 8, 40} {
				packet := withOptions(icmpError(t, c.router, client, 3, withOptions(became, inner)[14:]), outer)
				want := withOptions(icmpError(t, c.router, client, 3, withOptions(sent, inner)[14:]), outer)
				verdict, out, err := plane.RunToPod(packet, 0)
				check(t, err)
				if diff := cmp.Diff(want, out); verdict != bpf.Pass || diff != "" {
					t.Errorf("%s, %d bytes outside, %d in the quote: %v %s", c.router, outer, inner, verdict, diff)
				}
			}
		}
		first := fragmentsOf(became, 7, 24)[0]
		verdict, out, err := plane.RunToPod(icmpError(t, c.router, client, 3, first[14:]), 0)
		check(t, err)
		want := icmpError(t, c.router, client, 3, fragmentsOf(sent, 7, 24)[0][14:])
		if diff := cmp.Diff(want, out); verdict != bpf.Pass || diff != "" {
			t.Errorf("%s, of a first fragment: %v %s", c.router, verdict, diff)
		}
	}
}

// Row 20: echoes, errors of no flow and neighbour discovery pass untouched.
func TestOtherICMPPassesUntouched(t *testing.T) {
	plane := newPlane(t, oneService(model.TCP)...)
	_, flow, err := plane.RunFromPod(segment{from: "10.1.0.9:40000", to: "10.96.0.1:80", syn: true}.frame(t), 0)
	check(t, err)
	for name, packet := range map[string][]byte{
		"an echo":                         icmpError(t, "10.1.0.1", "10.1.0.9", 8, flow[14:]),
		"an error of no flow":             icmpError(t, "10.1.0.1", "10.1.0.9", 3, segment{from: "10.1.0.9:4", to: "10.1.0.1:8080"}.frame(t)[14:]),
		"an error that quotes too little": icmpError(t, "10.1.0.1", "10.1.0.9", 3, flow[14:14+20]),
		"an error that quotes ICMP":       icmpError(t, "10.1.0.1", "10.1.0.9", 3, icmpError(t, "10.1.0.9", "10.1.0.1", 8, nil)[14:]),
		"a neighbour's":                   icmpError(t, "fd00::1", "fd00::2", 135, make([]byte, 20)),
	} {
		verdict, out, err := plane.RunToPod(packet, 0)
		check(t, err)
		if diff := cmp.Diff(packet, out); verdict != bpf.Pass || diff != "" {
			t.Errorf("%s: %v %s", name, verdict, diff)
		}
	}
}

// TestPathMTUIsDiscoveredThroughServices has a link on the way that takes less than both ends think.
//
// Row 20: the path's MTU is discovered through a Service, over IPv4 and IPv6, and bulk data arrives.
func TestPathMTUIsDiscoveredThroughServices(t *testing.T) {
	f := newFabric(t, bpf.Options{})
	f.putServices(t)
	setMTU(t, f.node, "backend", 1400)
	data := make([]byte, 256<<10)
	for service, pod := range map[string]string{service4: backend4 + ":8080", service6: "[" + backend6 + "]:8080"} {
		var listener net.Listener
		f.backend.Do(t, func() {
			l, err := net.Listen("tcp", pod)
			check(t, err)
			listener = l
		})
		arrived := make(chan string, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				arrived <- err.Error()
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			n, err := io.Copy(io.Discard, conn)
			arrived <- fmt.Sprint(n, err)
		}()
		f.client.Do(t, func() {
			conn, err := net.Dial("tcp", service)
			check(t, err)
			conn.SetDeadline(time.Now().Add(patience))
			_, err = conn.Write(data)
			check(t, err)
			check(t, conn.Close())
		})
		if got, want := <-arrived, fmt.Sprint(len(data), nil); got != want {
			t.Errorf("to %s arrived %s, want %s", service, got, want)
		}
		listener.Close()
	}
}
