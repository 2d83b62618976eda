// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// proxy carries connections from the fabric to the bus: nodes have namespaces of their own, and a listener of the
// bus's server can't be moved into one.
type proxy struct {
	scheme    string // of the bus's URL
	target    string // host:port
	listeners []net.Listener
	tasks     sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool
	done bool
}

const busPort = 4222

func newProxy(namespace *space.Namespace, busURL string) (*proxy, error) {
	target, err := url.Parse(strings.Split(busURL, ",")[0])
	if err != nil {
		return nil, fmt.Errorf("bus URL %q: %w", busURL, err)
	}
	p := &proxy{scheme: target.Scheme, target: target.Host, open: map[net.Conn]bool{}}
	if target.Port() == "" {
		p.target = net.JoinHostPort(target.Hostname(), "4222")
	}
	err = namespace.Do(func() error {
		for _, addr := range fabric.BridgeAddrs {
			var config net.ListenConfig
			config.SetMultipathTCP(false)
			listener, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(addr, busPort).String())
			if err != nil {
				return fmt.Errorf("listen for nodes that look for the bus: %w", err)
			}
			p.listeners = append(p.listeners, listener)
		}
		return nil
	})
	if err != nil {
		p.Close()
		return nil, err
	}
	for _, listener := range p.listeners {
		p.tasks.Go(func() { p.accept(listener) })
	}
	return p, nil
}

// urlFor returns the bus's URL as seen from a node with these addresses.
func (p *proxy) urlFor(addrs []netip.Addr) string {
	for _, bridge := range fabric.BridgeAddrs {
		for _, addr := range addrs {
			if addr.Is4() == bridge.Is4() {
				return p.scheme + "://" + netip.AddrPortFrom(bridge, busPort).String()
			}
		}
	}
	return ""
}

func (p *proxy) accept(listener net.Listener) {
	for {
		from, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.tasks.Go(func() { p.carry(from) })
		}
	}
}

func (p *proxy) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return // the node sees its connection end and tries again
	}
	defer to.Close()
	if !p.keep(from, to) {
		return
	}
	defer p.drop(from, to)
	var back sync.WaitGroup
	back.Go(func() { pipe(from, to) })
	pipe(to, from)
	back.Wait()
}

// pipe ends both directions when one ends: the bus's protocol knows no half-closed connections.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from) // whichever way it ends, both ends see it
	_ = to.Close()
	_ = from.Close()
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.open[c] = true
	}
	return !p.done
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.open, c)
	}
}

// Close ends listeners and connections.
func (p *proxy) Close() {
	for _, listener := range p.listeners {
		listener.Close()
	}
	p.mu.Lock()
	p.done = true
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.tasks.Wait()
}
