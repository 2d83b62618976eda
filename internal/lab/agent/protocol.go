// SPDX-License-Identifier: Apache-2.0

// Package agent is the client inside a lab pod or node: a child process that lives in the pod's network namespace and
// cgroup, since socket programs are attached to cgroups, and that dials what it is told. It speaks JSON, one object a
// line, over its standard input and output.
//
// It promises that one probe is one new socket, unless a stream is asked for, and that an outcome is what the kernel said: refused is an answer of
// "no", timeout is no answer at all, unreachable is a missing route or an ICMP error that isn't a refusal.
package agent

import (
	"net/netip"
	"time"
)

// Outcome is what came of one attempt.
type Outcome string

// The outcomes.
const (
	OK          Outcome = "ok"
	Refused     Outcome = "refused"
	Timeout     Outcome = "timeout"
	Unreachable Outcome = "unreachable"
)

// Target is what is dialled, and how.
type Target struct {
	Protocol   string         `json:"protocol"` // tcp, udp or sctp
	Address    netip.AddrPort `json:"address"`
	SourcePort uint16         `json:"sourcePort,omitempty"` // 0 lets the kernel choose
	Timeout    time.Duration  `json:"timeout"`              // for all of one attempt, in nanoseconds
	// HTTP asks for /hostname over TCP instead of for a line.
	HTTP bool `json:"http,omitempty"`
	// Unconnected sends datagrams by sendto instead of connect and send.
	Unconnected bool `json:"unconnected,omitempty"`
	// Stream keeps one socket for all attempts: a TCP connection, or a connected UDP socket.
	Stream bool `json:"stream,omitempty"`
	// Mark is the socket's mark (SO_MARK), which chooses the way of an outside client; 0 is none.
	Mark int `json:"mark,omitempty"`
}

// Result is one attempt's outcome. Its JSON is what `deltaplane lab probe -o json` prints.
type Result struct {
	Outcome       Outcome `json:"outcome"`
	Reached       string  `json:"reached"`       // "namespace/pod" that answered
	ClientAddress string  `json:"clientAddress"` // as the pod saw the client
	ClientPort    uint16  `json:"clientPort"`
	LatencyMicros int64   `json:"latencyMicros"` // from before the socket to the answer
	Error         string  `json:"error,omitempty"`
}

// Load is what a run of continuous attempts came to.
type Load struct {
	Attempts int            `json:"attempts"`
	Failed   int            `json:"failed"`
	Reached  map[string]int `json:"reached"`            // answers by pod
	Failures []string       `json:"failures,omitempty"` // the first few, for people
	// LongestGapMicros is the longest time between two answers that came one after the other.
	LongestGapMicros int64 `json:"longestGapMicros"`
	// Switches are of a stream: when another pod answered than before, the first few.
	Switches []Switch `json:"switches,omitempty"`
}

// Switch is a stream's move from one pod to another.
type Switch struct {
	From      string `json:"from"`
	To        string `json:"to"`
	GapMicros int64  `json:"gapMicros"` // from the last answer of one to the first of the other
}

// request is one line to the agent. A probe makes Count attempts one after the other; load goes on until stop.
type request struct {
	ID       int           `json:"id"`
	Op       string        `json:"op"` // probe, load or stop
	Target   Target        `json:"target"`
	Count    int           `json:"count,omitempty"`
	Interval time.Duration `json:"interval,omitempty"` // from the start of one attempt to the next
	Stop     int           `json:"stop,omitempty"`     // of stop: the id of the load
}

// reply is one line from the agent.
type reply struct {
	ID      int      `json:"id"`
	Results []Result `json:"results,omitempty"`
	Load    *Load    `json:"load,omitempty"`
	Error   string   `json:"error,omitempty"`
}
