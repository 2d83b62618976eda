// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Probe makes one attempt.
func Probe(ctx context.Context, target Target) Result {
	ctx, cancel := context.WithTimeout(ctx, target.Timeout)
	defer cancel()
	start := time.Now()
	answer, err := attempt(ctx, target)
	result := Result{Outcome: outcomeOf(err), LatencyMicros: time.Since(start).Microseconds()}
	if err != nil {
		result.Error = err.Error()
		return result
	}
	result.Reached, result.ClientAddress, result.ClientPort, err = parse(answer)
	if err != nil {
		result.Error = err.Error()
	}
	return result
}

func attempt(ctx context.Context, target Target) (string, error) {
	switch target.Protocol {
	case "tcp":
		if target.HTTP {
			return attemptHTTP(ctx, target)
		}
		return attemptStream(ctx, target)
	case "udp":
		return attemptDatagram(ctx, target)
	case "sctp":
		return attemptSCTP(ctx, target)
	}
	return "", fmt.Errorf("protocol %q: want tcp, udp or sctp", target.Protocol)
}

// prepare gives a socket what it needs before it is bound or connected: its mark, and a chosen port that others share.
func (t Target) prepare(_, _ string, raw syscall.RawConn) error {
	if t.Mark == 0 && t.SourcePort == 0 {
		return nil
	}
	var failed error
	err := raw.Control(func(fd uintptr) {
		if t.Mark != 0 {
			failed = setMark(int(fd), t.Mark)
		}
		if t.SourcePort != 0 && failed == nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
	})
	return errors.Join(err, failed)
}

func setMark(fd, mark int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		return fmt.Errorf("mark the socket: %w", err)
	}
	return nil
}

func dial(ctx context.Context, network string, target Target) (net.Conn, error) {
	dialer := net.Dialer{Control: target.prepare}
	dialer.SetMultipathTCP(false)
	if target.SourcePort != 0 {
		dialer.LocalAddr = &net.TCPAddr{Port: int(target.SourcePort)}
		if network == "udp" {
			dialer.LocalAddr = &net.UDPAddr{Port: int(target.SourcePort)}
		}
	}
	connection, err := dialer.DialContext(ctx, network, target.Address.String())
	if err != nil {
		return nil, err
	}
	end, _ := ctx.Deadline()
	if err := connection.SetDeadline(end); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	// A connection that is closed in good order keeps its port for another minute (RFC 9293, TIME-WAIT); a chosen port
	// must be free for the next attempt at once, so its connections end with RST.
	if stream, ok := connection.(*net.TCPConn); ok && target.SourcePort != 0 {
		if err := stream.SetLinger(0); err != nil {
			return nil, errors.Join(err, connection.Close())
		}
	}
	return connection, nil
}

// attemptStream says a line at once, so that the pod needn't wait for whether HTTP is spoken.
func attemptStream(ctx context.Context, target Target) (string, error) {
	connection, err := dial(ctx, "tcp", target)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "\n"); err != nil {
		return "", err
	}
	return bufio.NewReader(connection).ReadString('\n')
}

func attemptDatagram(ctx context.Context, target Target) (string, error) {
	if target.Unconnected {
		return attemptSendTo(ctx, target)
	}
	connection, err := dial(ctx, "udp", target)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "\n"); err != nil {
		return "", err
	}
	buffer := make([]byte, 1024)
	n, err := connection.Read(buffer)
	return string(buffer[:n]), err
}

// attemptSendTo uses a socket that is not connected; the answer must come from where the question went.
func attemptSendTo(ctx context.Context, target Target) (string, error) {
	network := "udp4"
	if target.Address.Addr().Is6() {
		network = "udp6"
	}
	config := net.ListenConfig{Control: target.prepare}
	opened, err := config.ListenPacket(ctx, network, fmt.Sprintf(":%d", target.SourcePort))
	if err != nil {
		return "", err
	}
	defer opened.Close()
	socket := opened.(*net.UDPConn)
	end, _ := ctx.Deadline()
	if err := socket.SetDeadline(end); err != nil {
		return "", err
	}
	if _, err := socket.WriteToUDPAddrPort([]byte("\n"), target.Address); err != nil {
		return "", err
	}
	buffer := make([]byte, 1024)
	n, from, err := socket.ReadFromUDPAddrPort(buffer)
	if err != nil {
		return "", err
	}
	if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != target.Address {
		return "", fmt.Errorf("asked %s and got an answer from %s", target.Address, from)
	}
	return string(buffer[:n]), nil
}

// attemptHTTP owns its connection, so that it is closed when this returns and a chosen port is free again:
// http.Transport closes in its own time.
func attemptHTTP(ctx context.Context, target Target) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target.Address.String()+"/", nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	connection, err := dial(ctx, "tcp", target)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if err := request.Write(connection); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("HTTP status %s", response.Status)
	}
	return string(body), err
}

// outcomeOf reads an error as the kernel meant it.
func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNABORTED),
		errors.Is(err, unix.EPIPE), errors.Is(err, io.EOF):
		return Refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return Timeout
	case errors.Is(err, unix.EPERM): // a connect that is dropped, on kernels before 5.18
		return Timeout
	}
	return Unreachable
}

// parse reads the line that a pod answers with.
func parse(answer string) (pod, address string, port uint16, err error) {
	pod, client, ok := strings.Cut(strings.TrimSpace(answer), " ")
	if !ok {
		return "", "", 0, fmt.Errorf("the answer %q is none of a lab pod", answer)
	}
	at, err := netip.ParseAddrPort(client)
	if err != nil {
		return "", "", 0, fmt.Errorf("the answer %q is none of a lab pod: %w", answer, err)
	}
	return pod, at.Addr().String(), at.Port(), nil
}
