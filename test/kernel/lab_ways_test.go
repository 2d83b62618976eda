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
// labOf brings up a lab of objects with a configuration, until the test ends.
func labOf(t *testing.T, objects, configuration string) cli {
	t.Helper()
	testkit.NeedKernel(t)
	c := buildAll(t)
	dir := t.TempDir()
	file, config := filepath.Join(dir, "cluster.yaml"), filepath.Join(dir, "config.yaml")
	for name, text := range map[string]string{file: objects, config: configuration} {
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
	return c
}

// follow dials each way and compares what comes of it.
func (c cli) follow(t *testing.T, ways ...way) {
	t.Helper()
	for _, w := range ways {
		for _, r := range c.results(t, 3, w) {
			if r.Outcome != w.outcome || !strings.HasPrefix(r.Reached, w.reached) || w.seen != "" && r.ClientAddress != w.seen {
				t.Errorf("%+v: got %+v", w, r)
			}
		}
	}
}

func TestServicesOfAllKindsFromAllSides(t *testing.T) {
	c := labOf(t, everyKind, "allowExternalIPs: [192.0.2.0/24]\n")
	c.follow(t, ways...)
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

// Row 13: a pod reaches itself through its Service, masqueraded where its packets are translated.
// Trap 21: the pod's own packet comes back to it from the node's address, so that its answer takes the same way.
func TestPodsAreMasqueradedWhereAllIs(t *testing.T) {
	c := labOf(t, everyKind, "masqueradeAll: true\n")
	c.follow(t,
		way{from: "shop/one", to: "shop/known:80", outcome: agent.OK, reached: "shop/one", seen: "172.30.0.2"},
		way{from: "shop/client", to: "shop/known:80", outcome: agent.OK, reached: "shop/one", seen: "172.30.0.1"},
		way{from: "shop/client", to: "shop/web:quote", proto: "udp", outcome: agent.OK, reached: "shop/web-"},
		way{from: "shop/client", to: "shop/empty:80", outcome: agent.Refused},
		way{from: "shop/client", to: "shop/web:81", outcome: agent.Refused},
	)
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
