// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The bounds of the server.
const (
	requestTime  = 10 * time.Second
	checkTime    = 2 * time.Second
	shutdownTime = 2 * time.Second
	headerBytes  = 16 << 10
)

// Check is one thing that must be so for a service to be ready, or alive. Run returns why it isn't; it must be quick
// and may be called at the same time as itself.
type Check struct {
	Name string
	Run  func(context.Context) error
	// Live checks count for /livez too: the process is beyond help and should be restarted.
	Live bool
}

// Serve answers /metrics, /livez and /readyz on addr until ctx ends, then shuts down. An empty addr serves nothing and
// just waits for ctx. It returns an error only when it can't listen.
func Serve(ctx context.Context, addr string, registry *prometheus.Registry, checks ...Check) error {
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve metrics and health on %s (--listen): %w", addr, err)
	}
	return ServeOn(ctx, listener, registry, checks...)
}

// ServeOn is Serve on a listener, which it closes.
func ServeOn(ctx context.Context, listener net.Listener, registry *prometheus.Registry, checks ...Check) error {
	server := &http.Server{
		Handler: Handler(registry, checks...), ReadHeaderTimeout: requestTime, ReadTimeout: requestTime,
		WriteTimeout: requestTime, IdleTimeout: time.Minute, MaxHeaderBytes: headerBytes,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
	})
	err := server.Serve(listener)
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics and health on %s: %w", listener.Addr(), err)
	}
	<-stopped
	return nil
}

// Handler answers /metrics, /livez and /readyz; with ?verbose health has a line for each check.
func Handler(registry *prometheus.Registry, checks ...Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) { answer(w, r, live(checks)) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answer(w, r, checks) })
	return mux
}

func live(checks []Check) []Check {
	var all []Check
	for _, c := range checks {
		if c.Live {
			all = append(all, c)
		}
	}
	return all
}

// answer writes "ok", or each check that fails, in the way of the Kubernetes API server's health endpoints.
func answer(w http.ResponseWriter, r *http.Request, checks []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTime)
	defer cancel()
	var lines strings.Builder
	failed := 0
	for _, c := range checks {
		err := c.Run(ctx)
		if err != nil {
			failed++
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.Name, err)
		} else {
			fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case failed > 0:
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "%snot ready: %d of %d checks failed\n", lines.String(), failed, len(checks))
	case r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%sok\n", lines.String())
	default:
		fmt.Fprintln(w, "ok")
	}
}
