// SPDX-License-Identifier: Apache-2.0

// Package telemetry is how a service is watched: a logger, a registry of metrics, and an HTTP server for both metrics
// and health.
//
// It promises that /livez fails only when the process should be restarted, that /readyz names each check that fails,
// and that Serve leaves nothing behind when its context ends.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Logger returns a logger that writes "text" or "json" lines to w, from level "debug", "info", "warn" or "error" on.
// Messages are constant; what varies goes into attributes.
func Logger(w io.Writer, format, level string) (*slog.Logger, error) {
	var from slog.Level
	switch strings.ToLower(level) {
	case "debug", "info", "warn", "error":
		_ = from.UnmarshalText([]byte(level)) // these four are known
	default:
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: from}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", format)
}

// Registry returns a registry with the metrics of the Go runtime and the process.
func Registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
