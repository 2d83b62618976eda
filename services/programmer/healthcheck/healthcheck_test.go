// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// freePort returns a port that was free just now, and a listener on it.
func freePort(t *testing.T) (uint16, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(l.Addr().String()).Port(), l
}

func get(t *testing.T, port uint16) (status int, weight, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + netip.AddrPortFrom(loopback, port).String() + "/")
	if err != nil {
		return 0, "", ""
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(b)
}

// Row 9: a healthCheckNodePort is served as long as its Service has it.
func TestPortsAreServedAsLongAsTheirServicesHaveThem(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	var mu sync.Mutex
	var told []string
	s := New(healthy.Load, func(text string) { mu.Lock(); defer mu.Unlock(); told = append(told, text) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	s.On([]netip.Addr{loopback})
	port, taken := freePort(t)
	s.Want([]Check{{port, "shop", "web", 2}})
	last := func() string {
		mu.Lock()
		defer mu.Unlock()
		if len(told) == 0 {
			return ""
		}
		return told[len(told)-1]
	}
	testkit.Eventually(t, 10*time.Second, func() bool {
		return strings.HasPrefix(last(), "Service shop/web: its healthCheckNodePort ")
	})
	taken.Close()
	var weight, body string
	is := func(want int) func() bool {
		return func() bool {
			var status int
			status, weight, body = get(t, port)
			return status == want
		}
	}
	testkit.Eventually(t, 10*time.Second, is(200))
	want := "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
	if diff := cmp.Diff(want, body); diff != "" || weight != "2" {
		t.Errorf("weight %s, body (-want +got):\n%s", weight, diff)
	}
	testkit.Eventually(t, 10*time.Second, func() bool { return last() == "" })
	healthy.Store(false)
	testkit.Eventually(t, 10*time.Second, is(503))
	healthy.Store(true)
	s.Want([]Check{{port, "shop", "web", 0}})
	testkit.Eventually(t, 10*time.Second, is(503))
	s.Want(nil)
	testkit.Eventually(t, 10*time.Second, is(0))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Row 9: /healthz fails while the node drains or a change waits for too long; /livez only for the latter.
func TestHealthzFailsWhileChangesWaitOrTheNodeDrains(t *testing.T) {
	at := time.Unix(100, 0).UTC()
	for _, test := range []struct {
		name          string
		state         State
		healthz, live int
	}{
		{"all is current", State{Updated: at}, 200, 200},
		{"a change waits", State{Updated: at, Waiting: late}, 200, 200},
		{"a change waits for too long", State{Updated: at, Waiting: late + 1}, 503, 503},
		{"the node drains", State{Updated: at, Draining: true}, 503, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &Proxy{State: func() State { return test.state }}
			for path, want := range map[string]int{"/healthz": test.healthz, "/livez": test.live, "/": 404} {
				w := httptest.NewRecorder()
				p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				if w.Code != want {
					t.Errorf("%s: got %d, want %d", path, w.Code, want)
				}
				if path == "/healthz" && !strings.HasPrefix(w.Body.String(), `{"lastUpdated": "1970-01-01 00:01:40 +0000 UTC","currentTime": "`) {
					t.Errorf("body %s", w.Body)
				}
			}
		})
	}
}
