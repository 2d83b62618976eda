// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"
)

// How long a connection waits.
const (
	sniffTime  = 500 * time.Millisecond // for a client that may speak HTTP, on a machine that may be busy
	silentTime = time.Second            // for a client that has said nothing at all
	idleTime   = 10 * time.Minute       // for a client that has talked before
)

func (s *Server) accept(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client has gone already
		}
		s.open.Add(1)
		task := func() {
			defer s.open.Add(-1)
			s.serve(connection.(*net.TCPConn))
		}
		if s.start(connection, task) != nil {
			s.open.Add(-1)
			return
		}
	}
}

var httpStart = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) $`)

// serve finds out by the first bytes whether the client speaks HTTP.
func (s *Server) serve(connection *net.TCPConn) {
	client := connection.RemoteAddr().(*net.TCPAddr).AddrPort()
	reader := bufio.NewReader(connection)
	deadline(connection, sniffTime)
	method, err := reader.Peek(1)
	if err == nil && method[0] >= 'A' && method[0] <= 'Z' {
		deadline(connection, silentTime)
		if isHTTP(reader) {
			s.serveHTTP(connection, reader, client)
			return
		}
	}
	s.serveLines(connection, reader, client, err)
}

// isHTTP reads as far as a method with its space could go.
func isHTTP(reader *bufio.Reader) bool {
	for n := 2; n <= 8; n++ {
		start, err := reader.Peek(n)
		if err != nil {
			return false
		}
		if start[n-1] == ' ' {
			return httpStart.Match(start)
		}
	}
	return false
}

// serveLines answers at once, and again each time the client says something.
func (s *Server) serveLines(connection *net.TCPConn, reader *bufio.Reader, client netip.AddrPort, first error) {
	talks := first == nil
	if talks {
		discard(reader)
	}
	for {
		if _, err := io.WriteString(connection, s.line(client)); err != nil || errors.Is(first, io.EOF) {
			return
		}
		if deadline(connection, silentTime); talks {
			deadline(connection, idleTime)
		}
		if _, err := reader.Peek(1); err != nil {
			return
		}
		talks = true
		discard(reader)
	}
}

func discard(reader *bufio.Reader) {
	// What is buffered can be discarded without reading, so there is no error.
	_, _ = reader.Discard(reader.Buffered())
}

func (s *Server) serveHTTP(connection *net.TCPConn, reader *bufio.Reader, client netip.AddrPort) {
	for {
		deadline(connection, idleTime)
		request, err := http.ReadRequest(reader)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				s.log.Debug("read an HTTP request", "pod", s.pod, "client", client, "error", err)
			}
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		response := s.respond(request, client)
		err = errors.Join(response.Write(connection), response.Body.Close())
		if err != nil || request.Close {
			return
		}
	}
}

// respond knows /hostname, and /clientip as Kubernetes' test images do; every other path gets the line.
func (s *Server) respond(request *http.Request, client netip.AddrPort) *http.Response {
	body := s.line(client)
	switch request.URL.Path {
	case "/hostname":
		body = s.hostname + "\n"
	case "/clientip":
		body = netip.AddrPortFrom(client.Addr().Unmap(), client.Port()).String() + "\n"
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: request, Close: request.Close,
		Header:        http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Pod": {s.pod}},
		Body:          io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
	}
}

func deadline(connection *net.TCPConn, in time.Duration) {
	// It fails only on a closed connection, as the next read then does.
	_ = connection.SetReadDeadline(time.Now().Add(in))
}
