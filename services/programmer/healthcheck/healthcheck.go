// SPDX-License-Identifier: Apache-2.0

// Package healthcheck answers load balancers as kube-proxy does: at each Service's healthCheckNodePort whether the node
// has ready endpoints of it, and at one address whether the node forwards what it should.
//
// It promises that a port opens and closes with the Service that has it, that a port which another process holds is
// named and tried again, and that nothing stays open when its context ends.
package healthcheck

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Check is a Service's healthCheckNodePort.
type Check struct {
	Port      uint16
	Namespace string
	Name      string
	// Endpoints are the Service's ready endpoints on this node.
	Endpoints int
}

// Servers are the listeners of healthCheckNodePorts.
type Servers struct {
	// Healthy says whether the node forwards what it should.
	Healthy func() bool
	// Problem is told which ports can't be opened; empty once all are. It is called by Run.
	Problem func(text string)

	mu        sync.Mutex
	checks    map[uint16]Check
	addresses []netip.Addr
	changed   chan struct{}
	open      map[netip.AddrPort]*http.Server // of Run alone
	serving   sync.WaitGroup
	told      string
}

// New returns servers that have nothing to serve yet.
func New(healthy func() bool, problem func(string)) *Servers {
	return &Servers{
		Healthy: healthy, Problem: problem,
		checks: map[uint16]Check{}, changed: make(chan struct{}, 1), open: map[netip.AddrPort]*http.Server{},
	}
}

// Want says what to answer from now on. It never waits.
func (s *Servers) Want(checks []Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = make(map[uint16]Check, len(checks))
	for _, c := range checks {
		s.checks[c.Port] = c
	}
	s.wake()
}

// On says at which addresses; none is all of the node's.
func (s *Servers) On(addresses []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(addresses) == 0 {
		addresses = []netip.Addr{{}}
	}
	if !slices.Equal(s.addresses, addresses) {
		s.addresses = addresses
		s.wake()
	}
}

func (s *Servers) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// retryEvery is how often a port that can't be opened is tried again.
const retryEvery = time.Second

// Run opens and closes listeners until ctx ends.
func (s *Servers) Run(ctx context.Context) error {
	retry := time.NewTimer(retryEvery)
	defer retry.Stop()
	defer s.serving.Wait()
	for {
		select {
		case <-ctx.Done():
			for _, server := range s.open {
				server.Close()
			}
			return nil
		case <-s.changed:
		case <-retry.C:
		}
		if s.reconcile(ctx) {
			retry.Reset(retryEvery)
		}
	}
}

// reconcile says whether to try again.
func (s *Servers) reconcile(ctx context.Context) bool {
	wanted := s.wanted()
	for at, server := range s.open {
		if _, kept := wanted[at]; !kept {
			server.Close()
			delete(s.open, at)
		}
	}
	var failed []string
	for at, c := range wanted {
		if s.open[at] != nil {
			continue
		}
		if err := s.listen(ctx, at); err != nil {
			failed = append(failed, fmt.Sprintf("Service %s/%s: its healthCheckNodePort %d can't be served, so load balancers take this node for one without endpoints: %v",
				c.Namespace, c.Name, c.Port, err))
		}
	}
	slices.Sort(failed)
	if text := strings.Join(failed[:min(len(failed), 4)], "; "); text != s.told {
		s.told = text
		s.Problem(text)
	}
	return len(failed) > 0
}

func (s *Servers) wanted() map[netip.AddrPort]Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[netip.AddrPort]Check{}
	for port, c := range s.checks {
		for _, addr := range s.addresses {
			wanted[netip.AddrPortFrom(addr, port)] = c
		}
	}
	return wanted
}

func (s *Servers) listen(ctx context.Context, at netip.AddrPort) error {
	address := ":" + strconv.Itoa(int(at.Port()))
	if at.Addr().IsValid() {
		address = at.String()
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, at.Port()) }))
	s.open[at] = server
	s.serving.Go(func() {
		_ = server.Serve(listener) // always ErrServerClosed, or the listener is gone and tried again with the next change
	})
	return nil
}

// newServer bounds what a client can ask for.
func newServer(handler http.Handler) *http.Server {
	const within = 10 * time.Second
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: within, ReadTimeout: within, WriteTimeout: within, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

// answer writes what kube-proxy writes (pkg/proxy/healthcheck/service_health.go).
func (s *Servers) answer(w http.ResponseWriter, port uint16) {
	s.mu.Lock()
	c, known := s.checks[port]
	s.mu.Unlock()
	healthy := s.Healthy()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(c.Endpoints))
	if !known || c.Endpoints == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}",
		c.Namespace, c.Name, c.Endpoints, healthy)
}
