// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// State is how the node stands.
type State struct {
	// Updated is when it last held all that it should: now, if it does.
	Updated time.Time
	// Waiting is how long it hasn't.
	Waiting time.Duration
	// Draining says that the node is about to go.
	Draining bool
}

// late is how long a change may wait: twice the longest that one takes, as with kube-proxy's sync period of 30 s.
const late = time.Minute

// Current says that no change waits for too long.
func (s State) Current() bool { return s.Waiting <= late }

// Proxy answers /healthz, which fails while changes wait or the node drains, and /livez, which ignores that it drains.
// Told, if set, is called with each answer's path and status.
type Proxy struct {
	State func() State
	Told  func(path string, status int)
}

// ServeHTTP implements http.Handler, with the fields that kube-proxy writes (pkg/proxy/healthcheck/proxy_health.go).
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/healthz" && r.URL.Path != "/livez" {
		http.NotFound(w, r)
		return
	}
	s := p.State()
	fields := fmt.Sprintf(`"lastUpdated": %q,"currentTime": %q`, s.Updated.String(), time.Now().String())
	ok := s.Current()
	if r.URL.Path == "/healthz" {
		ok = ok && !s.Draining
		fields += fmt.Sprintf(`, "nodeEligible": %v`, !s.Draining)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	status := http.StatusOK
	if !ok {
		status = http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, "{%s}", fields)
	if p.Told != nil {
		p.Told(r.URL.Path, status)
	}
}

// Run serves on address until ctx ends; an empty one is none. An address that another process holds is told to problem
// and tried again every second.
func (p *Proxy) Run(ctx context.Context, address string, problem func(string)) error {
	if address == "" {
		return nil
	}
	told := false
	for ctx.Err() == nil {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			if told {
				problem("")
			}
			serve(ctx, newServer(p), listener)
			return nil
		}
		if !told && ctx.Err() == nil {
			told = true
			problem(fmt.Sprintf("/healthz can't be served on %s (--healthz-address): %v", address, err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
	return nil
}

func serve(ctx context.Context, server *http.Server, listener net.Listener) {
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	_ = server.Serve(listener) // ErrServerClosed
}
