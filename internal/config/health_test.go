// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthSaysWhatReadyzSays(t *testing.T) {
	ready := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte("[+]bus ok\n"))
	}))
	t.Cleanup(server.Close)
	addr := server.Listener.Addr().String()

	var out strings.Builder
	if err := healthy(t.Context(), addr, &out); err != nil || out.String() != "[+]bus ok\n" {
		t.Errorf("a ready service: %q, %v", out.String(), err)
	}
	ready = false
	if err := healthy(t.Context(), addr, &out); err == nil || !strings.Contains(err.Error(), "not ready: HTTP 503") {
		t.Errorf("a service that isn't ready: %v, want one that says so", err)
	}
	server.Close()
	if err := healthy(t.Context(), addr, &out); err == nil || !strings.Contains(err.Error(), "isn't running or listens elsewhere") {
		t.Errorf("no service: %v, want one that says so", err)
	}
	if err := healthy(t.Context(), "10471", &out); err == nil || !strings.Contains(err.Error(), `--listen "10471"`) {
		t.Errorf("a port alone: %v, want one that names the flag", err)
	}
}
