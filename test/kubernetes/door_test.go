// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"io"
	"net"
	"sync"
	"testing"
)

// door is the address that clients use for the API server. It stays the same while servers behind it come and go,
// and it can be shut, which cuts every connection: as a load balancer in front of an API server does.
type door struct {
	listener net.Listener

	mu          sync.Mutex
	target      string // empty: shut
	connections map[net.Conn]struct{}
}

func newDoor(t *testing.T) *door {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{listener: listener, connections: map[net.Conn]struct{}{}}
	var serving sync.WaitGroup
	serving.Go(func() { d.serve(&serving) })
	t.Cleanup(func() {
		listener.Close()
		d.close()
		serving.Wait()
	})
	return d
}

func (d *door) address() string { return d.listener.Addr().String() }

// open lets clients through to target.
func (d *door) open(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target = target
}

// close cuts every connection and refuses new ones.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target = ""
	for c := range d.connections {
		c.Close()
	}
	clear(d.connections)
}

func (d *door) serve(serving *sync.WaitGroup) {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		serving.Go(func() { d.pass(client) })
	}
}

func (d *door) pass(client net.Conn) {
	defer client.Close()
	server := d.connect(client)
	if server == nil {
		return
	}
	defer server.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		client.Close()
	})
	_, _ = io.Copy(server, client)
	server.Close()
	back.Wait()
}

// connect dials the target and remembers both ends, so that close finds them.
func (d *door) connect(client net.Conn) net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.target == "" {
		return nil
	}
	server, err := net.Dial("tcp", d.target)
	if err != nil {
		return nil
	}
	d.connections[client], d.connections[server] = struct{}{}, struct{}{}
	return server
}
