// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one socket that goes on asking. A connected UDP socket isn't opened again when it gets no answer: what
// becomes of it when its backend goes is the question. A TCP connection that has ended is, by the next attempt, and so is
// a socket that the kernel has ended (ECONNABORTED), since it has no peer any more.
type stream struct {
	target Target
	conn   net.Conn // nil before the first attempt, and after the end of a connection
}

// attempt asks once more and waits for the answer.
func (s *stream) attempt(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, s.target.Timeout)
	defer cancel()
	start := time.Now()
	answer, err := s.ask(ctx)
	result := Result{Outcome: outcomeOf(err), LatencyMicros: time.Since(start).Microseconds()}
	if err == nil {
		result.Reached, result.ClientAddress, result.ClientPort, err = parse(answer)
	}
	if err != nil {
		result.Error = err.Error()
		if s.target.Protocol != "udp" || errors.Is(err, unix.ECONNABORTED) {
			s.close()
		}
	}
	return result
}

func (s *stream) ask(ctx context.Context) (answer string, err error) {
	switch {
	case s.target.Protocol != "tcp" && s.target.Protocol != "udp", s.target.HTTP, s.target.Unconnected:
		return "", errors.New("only a TCP connection or a connected UDP socket is kept open")
	case s.conn == nil:
		if s.conn, err = dial(ctx, s.target.Protocol, s.target); err != nil {
			return "", err
		}
	}
	end, _ := ctx.Deadline()
	if err := s.conn.SetDeadline(end); err != nil {
		return "", err
	}
	if err := s.discard(); err != nil {
		return "", err
	}
	if _, err := s.conn.Write([]byte("\n")); err != nil {
		return "", err
	}
	buffer := make([]byte, 1024)
	n, err := s.conn.Read(buffer)
	return string(buffer[:n]), err
}

// discard takes answers that came too late for the question before: they are none to the next one. It doesn't wait.
func (s *stream) discard() error {
	raw, err := s.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	buffer := make([]byte, 1024)
	for {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, _, failed = unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
			return true
		})
		switch {
		case err != nil:
			return err
		case errors.Is(failed, unix.EAGAIN):
			return nil
		case failed != nil:
			return fmt.Errorf("between two questions: %w", failed)
		case n == 0 && s.target.Protocol == "tcp":
			return fmt.Errorf("between two questions: %w", io.EOF)
		}
	}
}

func (s *stream) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// attempts returns what makes one attempt after the other, and what ends them.
func attempts(target Target) (attempt func(context.Context) Result, end func()) {
	if !target.Stream {
		return func(ctx context.Context) Result { return Probe(ctx, target) }, func() {}
	}
	s := &stream{target: target}
	return s.attempt, s.close
}
