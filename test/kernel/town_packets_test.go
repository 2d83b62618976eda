// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// post sends packets of protocols that the lab's probes don't speak, between places of a lab, by raw sockets: the first
// of an SCTP association, which counts as arrived where it is heard, and pings, which do when the sender hears the answer.
type post struct {
	mu    sync.Mutex
	next  uint32
	heard map[hearing]bool
	boxes map[string]*box
}

// hearing is of a packet's token, at a place.
type hearing struct {
	token uint32
	place string
}

// box has the sockets of one place, by the names that package net has for them.
type box map[string]*net.IPConn

const (
	sctpOver4, sctpOver6 = "ip4:132", "ip6:132"
	pingOver4, pingOver6 = "ip4:1", "ip6:58"
)

func newPost(t *testing.T) *post {
	t.Helper()
	p := &post{heard: map[hearing]bool{}, boxes: map[string]*box{}, next: 10000}
	t.Cleanup(func() {
		for name := range p.boxes {
			p.close(name)
		}
	})
	return p
}

// close forgets a place: it may come again as another.
func (p *post) close(place string) {
	if b := p.boxes[place]; b != nil {
		for _, socket := range *b {
			socket.Close()
		}
		delete(p.boxes, place)
	}
}

// open opens the sockets of a place, once.
func (p *post) open(s *scene, name string) (*box, error) {
	if b := p.boxes[name]; b != nil {
		return b, nil
	}
	place, err := s.Place(name)
	if err != nil {
		return nil, err
	}
	b := &box{}
	p.boxes[name] = b
	return b, space.OpenNamespace(place.Namespace).Do(func() error {
		for _, network := range []string{sctpOver4, sctpOver6, pingOver4, pingOver6} {
			socket, err := net.ListenIP(network, nil)
			if err != nil {
				return err
			}
			(*b)[network] = socket
			go p.listen(name, network, socket)
		}
		return nil
	})
}

func (p *post) listen(place, network string, socket *net.IPConn) {
	packet := make([]byte, 2048)
	for {
		n, _, err := socket.ReadFromIP(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < tokenAt+4 || !counts(network, packet[:n]) {
			continue
		}
		p.mu.Lock()
		p.heard[hearing{binary.BigEndian.Uint32(packet[tokenAt:]), place}] = true
		p.mu.Unlock()
	}
}

// tokenAt is where a packet has its token: SCTP's initiate tag, or a ping's data that come after a longer header.
const tokenAt = 16

// counts says whether a packet is one that tells that another has arrived.
func counts(network string, packet []byte) bool {
	return network == pingOver4 && packet[0] == 0 || network == pingOver6 && packet[0] == 129 || strings.HasSuffix(network, ":132") && packet[12] == 1
}

// isPost says whether a call is made by raw sockets.
func (c call) isPost() bool { return c.proto == "sctp" || c.proto == "ping" }

// send makes a call and returns its token.
func (p *post) send(s *scene, c call) (uint32, error) {
	from, err := p.open(s, c.from)
	if err != nil {
		return 0, err
	}
	if c.proto == "sctp" {
		if _, err := p.open(s, c.to); err != nil {
			return 0, err
		}
	}
	to, err := s.Resolve(fmt.Sprintf("%s:%d", c.to, max(c.port, 1)), c.family)
	if err != nil {
		return 0, err
	}
	p.next++
	network, packet := packetOf(c, p.next, to.Addr())
	_, err = (*from)[network].WriteToIP(packet, &net.IPAddr{IP: to.Addr().AsSlice()})
	return p.next, err
}

// arrived says whether a call was heard: a ping by who sent it, all else where it was sent to.
func (p *post) arrived(token uint32, c call) bool {
	place := c.to
	if c.proto == "ping" {
		place = c.from
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard[hearing{token, place}]
}

// packetOf makes the bytes behind the IP header; the kernel fills in the checksum of ICMPv6 alone.
func packetOf(c call, token uint32, to netip.Addr) (network string, packet []byte) {
	own := uint16(10000 + token%50000) // the port, or the ping's identifier: each is another connection
	if c.proto == "sctp" {
		packet = slices.Concat(make([]byte, 12), sctpInit)
		binary.BigEndian.PutUint16(packet, own)
		binary.BigEndian.PutUint16(packet[2:], uint16(c.port))
		binary.BigEndian.PutUint32(packet[tokenAt:], token)
		binary.LittleEndian.PutUint32(packet[8:], crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli)))
		return map[bool]string{true: sctpOver4, false: sctpOver6}[to.Is4()], packet
	}
	packet = make([]byte, 20)
	binary.BigEndian.PutUint16(packet[4:], own)
	binary.BigEndian.PutUint32(packet[tokenAt:], token)
	if !to.Is4() {
		packet[0] = 128
		return pingOver6, packet
	}
	packet[0] = 8
	binary.BigEndian.PutUint16(packet[2:], checksumOf(packet))
	return pingOver4, packet
}

// heardOf waits until the calls that are expected have arrived, but not long, and says which of all have.
func (p *post) heardOf(tokens map[uint32]call, expected func(call) bool) map[call]bool {
	end := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		waiting = false
		for token, c := range tokens {
			waiting = waiting || expected(c) && !p.arrived(token, c)
		}
		select {
		case <-end:
			waiting = false
		case <-tick.C:
		}
	}
	heard := map[call]bool{}
	for token, c := range tokens {
		heard[c] = p.arrived(token, c)
	}
	return heard
}
