// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Each kind of Service, dialled from each side, by the commands that people use.
func TestServicesOfAllKindsFromAllSides(t *testing.T) {
	testkit.NeedKernel(t)
	c := buildAll(t)
	dir := t.TempDir()
	file, config := filepath.Join(dir, "cluster.yaml"), filepath.Join(dir, "config.yaml")
	for name, text := range map[string]string{file: everyKind, config: "allowExternalIPs: [192.0.2.0/24]\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := lab.Down(context.WithoutCancel(t.Context()), labName); err != nil {
			t.Error(err)
		}
	})
	c.lab(t, "up", "-f", file, "--config", config, "--detach")
	for _, w := range ways {
		for _, r := range c.results(t, 3, w) {
			if r.Outcome != w.outcome || !strings.HasPrefix(r.Reached, w.reached) || w.seen != "" && r.ClientAddress != w.seen {
				t.Errorf("%+v: got %+v", w, r)
			}
		}
	}
	near := c.results(t, 10, way{from: "shop/client", to: "shop/near:80"})
	same := c.results(t, 10, way{from: "shop/client", to: "shop/same:80"})
	for _, results := range [][]agent.Result{near, same} {
		for _, r := range results {
			if r.Reached != results[0].Reached || r.Outcome != agent.OK {
				t.Errorf("got %+v, and %+v before", r, results[0])
			}
		}
	}
	stream := c.results(t, 10, way{from: "outside", to: "198.51.100.80:53", proto: "udp"}, "--stream")
	for _, r := range stream {
		if r.Outcome != agent.OK || r.Reached != stream[0].Reached || r.ClientPort != stream[0].ClientPort {
			t.Errorf("on one socket: got %+v, and %+v before", r, stream[0])
		}
	}
}

// results makes several attempts in a row.
func (c cli) results(t *testing.T, count int, w way, more ...string) []agent.Result {
	t.Helper()
	args := append([]string{"--from", w.from, "--to", w.to, "--count", fmt.Sprint(count), "--timeout", "300ms", "-o", "json"}, more...)
	if w.proto != "" {
		args = append(args, "--proto", w.proto)
	}
	if w.via != "" {
		args = append(args, "--via", w.via)
	}
	var report lab.ProbeReport
	if out := c.lab(t, "probe", args...); json.Unmarshal([]byte(out), &report) != nil || len(report.Results) != count {
		t.Fatalf("probe says %s", out)
	}
	return report.Results
}
