// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// Connected UDP sockets, inside and outside, whose backends are replaced by others: those of pods and outside clients
// move without a word, those of the node itself are ended and told so, and nobody is without an answer for a second.
//
// Row 2: connected UDP sockets inside and outside move to a live backend within a second, while all backends are
// replaced.
func TestConnectedSocketsMoveWithTheirBackends(t *testing.T) {
	testkit.NeedKernel(t)
	c := buildAll(t)
	l, err := lab.Up(t.Context(), decoded(t, everyKind), lab.Options{
		Name: labName + "-streams", Binaries: filepath.Dir(c.program), Agent: []string{c.program, "lab", "agent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Converged(t.Context()); err != nil {
		t.Fatal(err)
	}
	loads := map[string]func(context.Context) (*agent.Load, error){}
	for _, r := range []lab.ProbeRequest{
		{From: "shop/client", To: "shop/web:quote"},
		{From: "shop/client", To: "shop/web:quote", Family: 6},
		{From: "node/node-1", To: "shop/web:quote"},
		{From: "outside", To: "198.51.100.80:53"},
		{From: "outside", To: "[2001:db8:1::80]:53", Via: "node/node-2"},
		{From: "outside", To: "node/node-2:30053"},
	} {
		r.Protocol, r.Stream, r.Timeout = "udp", true, 700*time.Millisecond
		stop, err := l.Load(r, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		loads[fmt.Sprintf("%s to %s via %q, family %d", r.From, r.To, r.Via, r.Family)] = stop
	}
	changed := strings.Replace(everyKind, "metadata: {labels: {app: web}}", "metadata: {labels: {app: web}, annotations: {version: \"2\"}}", 1)
	begun := time.Now()
	if err := l.Apply(t.Context(), decoded(t, changed)); err != nil {
		t.Fatal(err)
	}
	notice := max(time.Second, time.Since(begun)) // on a busy machine until the change is live
	for name, stop := range loads {
		load, err := stop(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		if strings.HasPrefix(name, "node/") {
			told = len(load.Switches)
		}
		if load.LongestGapMicros > notice.Microseconds() || len(load.Switches) == 0 || load.Failed > told {
			t.Errorf("%s: %+v", name, load)
		}
		t.Logf("%s: %d questions, %d without an answer, longest silence %d µs", name, load.Attempts, load.Failed, load.LongestGapMicros)
	}
}

func decoded(t *testing.T, yaml string) *manifest.Objects {
	t.Helper()
	objects := manifest.Decode("cluster.yaml", []byte(yaml))
	if err := objects.Err(); err != nil {
		t.Fatal(err)
	}
	return objects
}
