// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// metricsAddress is where a programmer tells its metrics, on its own node alone.
const metricsAddress = "127.0.0.1:10473"

// writes counts what each node's programmer, but for some, has written to its maps so far. One that was started again counts anew.
type writes map[string]uint64

func (c *cluster) writes(t *testing.T, but ...string) writes {
	t.Helper()
	all := writes{}
	for _, node := range c.Nodes() {
		if slices.Contains(but, node) {
			continue
		}
		waitFor(t, node+" to tell its metrics", func() bool {
			n, err := c.metric(t.Context(), node, "deltaplane_programmer_map_writes_total")
			all[node] = n
			return err == nil
		})
	}
	return all
}

// since is how many there were on all nodes since an earlier count.
func (w writes) since(earlier writes) (sum uint64) {
	for node, now := range w {
		if before := earlier[node]; before <= now {
			now -= before
		}
		sum += now
	}
	return sum
}

// metric reads a counter of a node's programmer, without the bus.
func (c *cluster) metric(ctx context.Context, node, name string) (value uint64, err error) {
	answer, err := c.get(ctx, "node/"+node, metricsAddress, "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), "\n"+name+" ")
	if !found {
		return 0, fmt.Errorf("node %s has no metric %s", node, name)
	}
	line, _, _ := strings.Cut(rest, "\n")
	var number float64
	_, err = fmt.Sscan(line, &number)
	return uint64(number), err
}

// get asks for something that a host tells on its own loopback alone.
func (c *cluster) get(ctx context.Context, host, address, path string) (*http.Response, error) {
	client := http.Client{Timeout: patience / 4, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c.DialAt(host, "tcp", address) },
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}
