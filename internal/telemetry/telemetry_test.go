// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLoggerWritesWhatIsAskedFor(t *testing.T) {
	var out bytes.Buffer
	logger, err := Logger(&out, "json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("not this")
	logger.Warn("a revision was skipped", "revision", 7)
	if !strings.Contains(out.String(), `"level":"WARN","msg":"a revision was skipped","revision":7}`) || strings.Contains(out.String(), "not this") {
		t.Error(out.String())
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"text", "loud"}} {
		if _, err := Logger(io.Discard, bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("format %q, level %q: %v", bad[0], bad[1], err)
		}
	}
}

// serve runs a server until the test ends and returns its address and what ends it.
func serve(t *testing.T, registry *prometheus.Registry, checks ...Check) (url string, end func() error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeOn(ctx, listener, registry, checks...) }()
	return "http://" + listener.Addr().String(), func() error { cancel(); return <-ended }
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestHealthNamesWhatFails(t *testing.T) {
	var stuck, away error
	url, end := serve(t, Registry(),
		Check{Name: "loop", Live: true, Run: func(context.Context) error { return stuck }},
		Check{Name: "bus", Run: func(context.Context) error { return away }},
	)
	type answer struct {
		Status int
		Body   string
	}
	expect := func(path string, status int, body string) {
		t.Helper()
		gotStatus, got := get(t, url+path)
		if diff := cmp.Diff(answer{status, body}, answer{gotStatus, got}); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
	}
	expect("/livez", 200, "ok\n")
	expect("/readyz", 200, "ok\n")
	expect("/readyz?verbose", 200, "[+]loop ok\n[+]bus ok\nok\n")
	away = errors.New("not connected to the bus at nats://x")
	expect("/livez?verbose", 200, "[+]loop ok\nok\n")
	expect("/readyz", 503, "[+]loop ok\n[-]bus failed: not connected to the bus at nats://x\nnot ready: 1 of 2 checks failed\n")
	stuck = errors.New("no round for 1m0s")
	expect("/livez", 503, "[-]loop failed: no round for 1m0s\nnot ready: 1 of 1 checks failed\n")
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestMetricsAreServedUntilTheContextEnds(t *testing.T) {
	registry := Registry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "deltaplane_things_total", Help: "Things."})
	registry.MustRegister(counter)
	counter.Add(3)
	url, end := serve(t, registry)
	status, body := get(t, url+"/metrics")
	for _, want := range []string{"deltaplane_things_total 3", "go_goroutines", "process_resident_memory_bytes"} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("status %d without %q", status, want)
		}
	}
	if status, _ := get(t, url+"/elsewhere"); status != 404 {
		t.Errorf("status %d elsewhere, want 404", status)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
		t.Error("still listening")
	}
}

func TestAddressThatIsTakenIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = Serve(t.Context(), taken.Addr().String(), Registry())
	if err == nil || !strings.Contains(err.Error(), "serve metrics and health on "+taken.Addr().String()+" (--listen)") {
		t.Errorf("got %v", err)
	}
}

func TestNoAddressServesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Serve(ctx, "", Registry()); err != nil {
		t.Error(err)
	}
}
