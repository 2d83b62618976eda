// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

// Timeouts say how long a flow of the per-packet path is kept after its last packet. What Linux's conntrack has a
// setting for is named after it and has its default.
type Timeouts struct {
	TCPUnanswered  time.Duration // nf_conntrack_tcp_timeout_syn_recv
	TCPEstablished time.Duration // nf_conntrack_tcp_timeout_established
	TCPClosing     time.Duration // one side or both have ended: nf_conntrack_tcp_timeout_fin_wait, _time_wait
	TCPReset       time.Duration // nf_conntrack_tcp_timeout_close
	UDPUnanswered  time.Duration // nf_conntrack_udp_timeout
	UDPAnswered    time.Duration // nf_conntrack_udp_timeout_stream
	SCTP           time.Duration // nf_conntrack_sctp_timeout_established
	ICMP           time.Duration // nf_conntrack_icmp_timeout
	Other          time.Duration // other protocols: nf_conntrack_generic_timeout
}

// DefaultTimeouts are Linux's.
var DefaultTimeouts = Timeouts{
	TCPUnanswered:  60 * time.Second,
	TCPEstablished: 5 * 24 * time.Hour,
	TCPClosing:     120 * time.Second,
	TCPReset:       10 * time.Second,
	UDPUnanswered:  30 * time.Second,
	UDPAnswered:    120 * time.Second,
	SCTP:           210 * time.Second,
	ICMP:           30 * time.Second,
	Other:          600 * time.Second,
}

// connectionTimeouts is connection_timeouts of the programs: Timeouts in seconds.
type connectionTimeouts struct {
	TCPUnanswered, TCPEstablished, TCPClosing, TCPReset, UDPUnanswered, UDPAnswered, SCTP, ICMP, Other uint32
}

func (t Timeouts) inSeconds() connectionTimeouts {
	seconds := func(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }
	return connectionTimeouts{
		TCPUnanswered: seconds(t.TCPUnanswered), TCPEstablished: seconds(t.TCPEstablished), TCPClosing: seconds(t.TCPClosing),
		TCPReset: seconds(t.TCPReset), UDPUnanswered: seconds(t.UDPUnanswered), UDPAnswered: seconds(t.UDPAnswered),
		SCTP: seconds(t.SCTP), ICMP: seconds(t.ICMP), Other: seconds(t.Other),
	}
}

// affinityMax is the longest session affinity that Kubernetes allows, in seconds.
const affinityMax = 86400

// NowSeconds is the time that flows are marked with: seconds of CLOCK_MONOTONIC, which starts with the machine and
// stands still while it sleeps, so that no flow grows old then.
func NowSeconds() (uint32, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint32(now.Sec), nil
}

// The protocols that have connections besides those with ports.
const (
	protocolICMP   = model.Protocol(unix.IPPROTO_ICMP)
	protocolICMPv6 = model.Protocol(unix.IPPROTO_ICMPV6)
)

// standing is what is known of a flow: of one entry, or of several together.
type standing struct {
	protocol model.Protocol
	seen     uint32 // the last packet of any
	answered bool   // by all of them
	fin      bool   // by any of them
	reset    bool
	halfOpen bool // its client has not shown that it hears the answers
}

// standingOf returns what one entry says.
func standingOf(key *abi.Tuple, flow *abi.Flow) standing {
	return standing{
		protocol: model.Protocol(key.Protocol),
		seen:     flow.Seen,
		// An acknowledgment is an answer too: the bit is noted later. What is to be masqueraded should it leave by an
		// uplink, and never did, knows of neither: others do.
		answered: flow.State&abi.FlowAnswered != 0 || flow.Acknowledged != 0 || key.Leaving != 0 && flow.Port == [2]byte{},
		fin:      flow.State&abi.FlowFIN != 0,
		reset:    flow.State&abi.FlowReset != 0,
		halfOpen: flow.HalfOpen != 0,
	}
}

// with returns what two entries of a flow say together.
func (s standing) with(other standing, now uint32) standing {
	if age(s.seen, now) > age(other.seen, now) {
		s.seen = other.seen
	}
	s.answered = s.answered && other.answered
	s.fin = s.fin || other.fin
	s.reset = s.reset || other.reset
	s.halfOpen = s.halfOpen || other.halfOpen
	return s
}

// keeps returns for how long a flow that stands so is kept.
func (t *Timeouts) keeps(s standing) time.Duration {
	switch s.protocol {
	case model.TCP:
		switch {
		case s.reset:
			return t.TCPReset
		case s.fin:
			return t.TCPClosing
		case !s.answered || s.halfOpen:
			return t.TCPUnanswered
		}
		return t.TCPEstablished
	case model.UDP:
		if !s.answered {
			return t.UDPUnanswered
		}
		return t.UDPAnswered
	case model.SCTP:
		return t.SCTP
	case protocolICMP, protocolICMPv6:
		return t.ICMP
	}
	return t.Other
}

// expired says if a flow that stands so is to go.
func (t *Timeouts) expired(s standing, now uint32) bool {
	return time.Duration(age(s.seen, now))*time.Second > t.keeps(s)
}

// age returns the seconds from seen to now; none for what was seen after that, by a packet that came meanwhile.
func age(seen, now uint32) uint32 {
	if seen > now {
		return 0
	}
	return now - seen
}

// exchanged returns what a packet becomes: source, destination and their ports. It is flow_exchange of include/flow.h.
func exchanged(key *abi.Tuple, flow *abi.Flow) abi.Tuple {
	to := *key
	if key.Leaving != 0 {
		to.Source, to.SourcePort, to.DestinationPort = flow.Addr, flow.Port, flow.OtherPort
	} else {
		to.Destination, to.DestinationPort, to.SourcePort = flow.Addr, flow.Port, flow.OtherPort
	}
	return to
}

// turned returns the key of what goes the other way.
func turned(t abi.Tuple) abi.Tuple {
	t.Source, t.Destination = t.Destination, t.Source
	t.SourcePort, t.DestinationPort = t.DestinationPort, t.SourcePort
	return t
}

// related returns the keys at which other entries of the same flow may be. The first is the other half, which leads
// back; there is none while what leaves has not been given an address.
//
//	in   client:p → Service:s ◄── half ──► out  backend:b → client:c
//	        │ next                             │ turned
//	        ▼                                  ▼
//	out  client:c → backend:b ◄── half ──► in   backend:b → node:m
func related(key *abi.Tuple, flow *abi.Flow) [2]abi.Tuple {
	next := exchanged(key, flow)
	half := turned(next)
	half.Leaving = 1 - key.Leaving
	if key.Leaving != 0 {
		return [2]abi.Tuple{half, turned(*key)}
	}
	next.Leaving = 1
	return [2]abi.Tuple{half, next}
}
