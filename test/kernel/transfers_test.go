// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// transferPatience is how long one transfer may take.
const transferPatience = 10 * time.Minute

// block is what transfers repeat. Its length has nothing in common with those of segments and buffers, so that a part
// that is lost, doubled or moved shows.
var block = func() []byte {
	b := make([]byte, 65521) // a prime
	for i := range b {
		b[i] = byte(i * (i + 7) >> 3)
	}
	return b
}()

// content is what transfers carry, from an offset on.
type content struct{ at int64 }

func (c *content) Read(p []byte) (n int, _ error) {
	for n < len(p) {
		did := copy(p[n:], block[c.at%int64(len(block)):])
		n, c.at = n+did, c.at+int64(did)
	}
	return n, nil
}

// Write fails at what isn't the content.
func (c *content) Write(p []byte) (n int, _ error) {
	for n < len(p) {
		part := block[c.at%int64(len(block)):]
		part = part[:min(len(part), len(p)-n)]
		if !bytes.Equal(part, p[n:n+len(part)]) {
			return n, fmt.Errorf("within %d bytes from offset %d there are others than were sent", len(part), c.at)
		}
		n, c.at = n+len(part), c.at+int64(len(part))
	}
	return n, nil
}

// transferPort is where pods serve transfers.
const transferPort = 8099

// transferAt lets a pod serve transfers, on all its addresses: a line says how many bytes a client gets, or sends if there
// is a minus. It returns how many connections have come.
func (s *scene) transferAt(t *testing.T, pod string) *atomic.Int64 {
	t.Helper()
	var came atomic.Int64
	at, err := s.Place(pod)
	check(t, err)
	var listener net.Listener
	check(t, space.OpenNamespace(at.Namespace).Do(func() error {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", transferPort))
		return err
	}))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			go serveTransfer(conn)
		}
	}()
	return &came
}

// serveTransfer answers who sends with what was right of it.
func serveTransfer(conn net.Conn) {
	defer conn.Close()
	var wanted int64
	reader := bufio.NewReader(conn)
	if _, err := fmt.Fscanf(reader, "%d\n", &wanted); err != nil || conn.SetDeadline(time.Now().Add(transferPatience)) != nil {
		return
	}
	var moved content
	if wanted > 0 {
		_, _ = io.CopyN(conn, &moved, wanted) // the client sees what is missing
		return
	}
	if _, err := io.CopyN(&moved, reader, -wanted); err == nil {
		fmt.Fprintf(conn, "%d\n", moved.at)
	}
}

// transfers are connections at work at the same time, each with so many bytes to get or to send. At stages, which divide
// them into equal parts, they move a little at a time until something was done.
type transfers struct {
	number int
	bytes  int64
	stages []stage
}

// stage is done when half have come to it. The other half is amid what is before it, those that have come are amid what
// is behind.
type stage struct {
	awaited int64
	came    atomic.Int64
	ready   chan struct{} // closed when as many have come as are awaited
	open    chan struct{} // closed when they may go on
}

func newTransfers(number int, bytes int64, stages int) *transfers {
	x := &transfers{number: number, bytes: bytes, stages: make([]stage, stages)}
	for i := range x.stages {
		x.stages[i].awaited = int64(number+1) / 2
		x.stages[i].ready, x.stages[i].open = make(chan struct{}), make(chan struct{})
	}
	return x
}

func (s *stage) come() {
	if s.came.Add(1) == s.awaited {
		close(s.ready)
	}
}

// How often, and in how many steps, transfers that have come to a stage move half of their next part.
const (
	trickleTime  = 50 * time.Millisecond
	trickleSteps = 256
)

// trickle moves a little at a time, most bytes in all, until the stage is over.
func (s *stage) trickle(to io.Writer, from io.Reader, most int64) (moved int64, _ error) {
	tick := time.NewTicker(trickleTime)
	defer tick.Stop()
	for step := max(1, most/trickleSteps); moved+step <= most; moved += step {
		select {
		case <-s.open:
			return moved, nil
		case <-tick.C:
		}
		if _, err := io.CopyN(to, from, step); err != nil {
			return moved, err
		}
	}
	<-s.open
	return moved, nil
}

// at does what is to be done at a stage, and lets the transfers go on whatever comes of it.
func (x *transfers) at(stage int, do func()) {
	defer close(x.stages[stage].open)
	<-x.stages[stage].ready
	do()
}

// one makes a transfer, part by part.
func (x *transfers) one(conn net.Conn, sends bool) error {
	next := 0
	// Nobody waits for one that has ended, in time or not.
	defer func() {
		for ; next < len(x.stages); next++ {
			x.stages[next].come()
		}
	}()
	request, from, to := x.bytes, io.Reader(conn), io.Writer(&content{})
	if sends {
		request, from, to = -x.bytes, &content{}, conn
	}
	if _, err := fmt.Fprintf(conn, "%d\n", request); err != nil {
		return err
	}
	part := x.bytes / int64(len(x.stages)+1)
	did := int64(0) // of the part that is under way
	for next < len(x.stages) {
		if _, err := io.CopyN(to, from, part-did); err != nil {
			return fmt.Errorf("in part %d: %w", next, err)
		}
		at := &x.stages[next]
		at.come()
		next++
		var err error
		if did, err = at.trickle(to, from, part/2); err != nil {
			return fmt.Errorf("at the beginning of part %d: %w", next, err)
		}
	}
	if _, err := io.CopyN(to, from, x.bytes-part*int64(len(x.stages))-did); err != nil || !sends {
		return err
	}
	var taken int64
	if _, err := fmt.Fscanf(conn, "%d\n", &taken); err != nil || taken != x.bytes {
		return fmt.Errorf("the pod took %d bytes of %d: %w", taken, x.bytes, err)
	}
	return nil
}

// run makes all transfers from the first client to targets in turn, every second one the other way, and does what is to be
// done at each stage.
func (x *transfers) run(t *testing.T, s *scene, targets []netip.AddrPort, at ...func()) {
	t.Helper()
	conns := make([]net.Conn, x.number)
	for i := range conns {
		conns[i] = s.from(t, lab.Outside, "tcp", 0, targets[i/2%len(targets)], nil)
		// Who only waits for more notices by its own probes that the way has changed.
		alive := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 120}
		check(t, errors.Join(conns[i].(*net.TCPConn).SetKeepAliveConfig(alive), conns[i].SetDeadline(time.Now().Add(transferPatience))))
	}
	ended := make(chan error, x.number)
	for i, conn := range conns {
		go func() {
			if err := x.one(conn, i%2 == 1); err != nil {
				ended <- fmt.Errorf("%s → %s: %w", conn.LocalAddr(), conn.RemoteAddr(), err)
				return
			}
			ended <- nil
		}()
	}
	for i, do := range at {
		x.at(i, do)
	}
	failed := 0
	for range x.number {
		if err := <-ended; err != nil {
			if failed++; failed <= 3 {
				t.Error(err)
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d transfers failed", failed, x.number)
	}
}
