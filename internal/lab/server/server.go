// SPDX-License-Identifier: Apache-2.0

// Package server answers for lab pods: on each port one line that names the pod and the client it sees, so that a
// client learns where it has got to and as whom.
//
// It promises that a client that says nothing gets its line within half a second and the end of the connection after a
// second, that a client that goes on talking keeps its connection, and that one TCP port speaks both this and HTTP.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Port is one port that a pod serves.
type Port struct {
	Protocol string // TCP, UDP or SCTP
	Number   uint16
}

// Server answers on all ports of one pod.
type Server struct {
	pod      string // "namespace/name"
	hostname string
	log      *slog.Logger

	open  atomic.Int64 // connections and datagrams in hand
	tasks sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	sockets map[interface{ Close() error }]bool
}

// New returns a server for a pod, named "namespace/name", that listens on nothing yet.
func New(pod, hostname string, log *slog.Logger) *Server {
	return &Server{pod: pod, hostname: hostname, log: log, sockets: map[interface{ Close() error }]bool{}}
}

// Listen opens a port on each address. It is called in the pod's network namespace; what it starts may run anywhere.
func (s *Server) Listen(addrs []netip.Addr, port Port) error {
	switch port.Protocol {
	case "TCP":
		return s.each(addrs, port, s.listenTCP)
	case "UDP":
		return s.each(addrs, port, s.listenUDP)
	case "SCTP":
		return s.each(addrs, port, s.listenSCTP)
	}
	return fmt.Errorf("pod %s: protocol %q of port %d is not one that pods serve", s.pod, port.Protocol, port.Number)
}

func (s *Server) each(addrs []netip.Addr, port Port, listen func(netip.AddrPort) error) error {
	for _, addr := range addrs {
		if err := listen(netip.AddrPortFrom(addr, port.Number)); err != nil {
			return fmt.Errorf("pod %s: listen on %s port %d: %w", s.pod, port.Protocol, port.Number, err)
		}
	}
	return nil
}

func (s *Server) listenTCP(at netip.AddrPort) error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // BPF programs that look at sockets don't know MPTCP's
	listener, err := config.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return err
	}
	return s.start(listener, func() { s.accept(listener) })
}

func (s *Server) listenUDP(at netip.AddrPort) error {
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	return s.start(socket, func() { s.answerDatagrams(socket) })
}

// start runs a task that ends when its socket is closed, unless the server is closed already.
func (s *Server) start(socket interface{ Close() error }, task func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(net.ErrClosed, socket.Close())
	}
	s.sockets[socket] = true
	s.tasks.Go(func() {
		task()
		socket.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sockets, socket)
	})
	return nil
}

// line is the answer to a client.
func (s *Server) line(client netip.AddrPort) string {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	return s.pod + " " + net.JoinHostPort(client.Addr().String(), strconv.Itoa(int(client.Port()))) + "\n"
}

func (s *Server) answerDatagrams(socket *net.UDPConn) {
	buffer := make([]byte, 64<<10)
	for {
		_, client, err := socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		s.open.Add(1)
		if _, err := socket.WriteToUDPAddrPort([]byte(s.line(client)), client); err != nil {
			s.log.Debug("answer a datagram", "pod", s.pod, "client", client, "error", err)
		}
		s.open.Add(-1)
	}
}

// Busy is how many clients are being answered right now.
func (s *Server) Busy() int { return int(s.open.Load()) }

// Close ends all listeners and connections and waits for what served them.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for socket := range s.sockets {
		socket.Close()
	}
	s.mu.Unlock()
	s.tasks.Wait()
}

// How a pod that is to go finds out that nobody needs it any more.
const (
	drainPause = 10 * time.Millisecond
	drainQuiet = 5 // times in a row with nothing in hand
)

// Drain waits until no client has been in hand for a moment, or ctx ends. Connections without traffic count: a client
// may still have something to say.
func (s *Server) Drain(ctx context.Context) {
	ticker := time.NewTicker(drainPause)
	defer ticker.Stop()
	for quiet := 0; quiet < drainQuiet; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if quiet++; s.Busy() > 0 {
			quiet = 0
		}
	}
}
