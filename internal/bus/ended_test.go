// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// A connection that the server ends with an error after which nats.go tries no more is told as ended, so that a service is
// started anew; one that its owner closes isn't, nor one that comes back.
//
// Promise P9: keys are replaced, and nobody is left without the bus.
func TestAConnectionThatIsEndedForGoodIsTold(t *testing.T) {
	server := startServer(t, embedded.Options{})
	var last net.Conn // the server's end of it
	conn := connect(t, Options{URL: server.URL(), Name: "service", Dial: func(network, address string) (net.Conn, error) {
		up, err := net.Dial(network, address)
		if err != nil {
			return nil, err
		}
		ours, theirs := net.Pipe()
		last = theirs
		go func() { _, _ = io.Copy(up, theirs); _ = up.Close() }()
		go func() { _, _ = io.Copy(theirs, up); _ = theirs.Close() }()
		return ours, nil
	}})
	ended := make(chan error, 1)
	go func() { ended <- conn.Ended(t.Context()) }()
	_ = last.Close()
	testkit.Eventually(t, 30*time.Second, func() bool { return conn.nats.Stats().Reconnects == 1 && conn.Connected() == nil })
	select {
	case err := <-ended:
		t.Fatalf("ended though it is back: %v", err)
	default:
	}
	if _, err := io.WriteString(last, "-ERR 'Parser Error'\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "arser") || !strings.Contains(err.Error(), "for good") {
		t.Errorf("ended with %v; want the server's reason", err)
	}

	closed := connect(t, Options{URL: server.URL(), Name: "who leaves"})
	go func() { ended <- closed.Ended(context.WithoutCancel(t.Context())) }()
	closed.Close()
	if err := <-ended; err != nil {
		t.Errorf("closed by its owner, it says %v", err)
	}
}
