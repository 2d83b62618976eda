// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

const affinity = "type: NodePort, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: %}}"

// TestSessionAffinity dials from pods, from nodes and from outside.
//
// Row 11: a client keeps its backend on every way to the Service (cluster IP, NodePort, TCP and UDP), until its time
// is over, its backend is no longer ready, or the Service gives the affinity up.
func TestSessionAffinity(t *testing.T) {
	testkit.NeedKernel(t)
	pods := onePod("web", 1, "") + onePod("web", 2, "") + onePod("web", 3, "")
	sticky := func(seconds string) string {
		return strings.Replace(serviceOf("sticky", "web", strings.Replace(affinity, "%", seconds, 1)),
			"port: 80,", "port: 80, nodePort: 30090,", 1)
	}
	s := newStory(t, "affinity", zones+pods+onePod("client", 1, "")+sticky("3600"))
	ways := []way{
		{from: "shop/client-1", to: "shop/sticky:80"},
		{from: "node/node-1", to: "shop/sticky:80"},
		{from: "node/node-2", to: "shop/sticky:53", proto: "udp"},
		{from: "shop/client-1", to: "node/node-2:30090"},
		{from: "outside", to: "node/node-1:30090"},
		{from: "outside", via: "node/node-3", to: "node/node-3:30090"},
	}
	kept := func(t *testing.T, family int, w way) string {
		t.Helper()
		met := s.met(t, "any of three", family, w)
		if strings.Count(met, "shop/web-") != 1 || strings.Contains(met, " ") {
			t.Errorf("%+v over IPv%d: got %q, want one pod", w, family, met)
		}
		return met
	}
	for _, family := range []int{4, 6} {
		for _, w := range ways {
			first := kept(t, family, w)
			if again := kept(t, family, w); again != first {
				t.Errorf("%+v over IPv%d: got %s after %s", w, family, again, first)
			}
		}
	}
	const all = "shop/web-1 shop/web-2 shop/web-3"
	pod, outside := ways[0], ways[4]
	t.Run("the backend is no longer ready", func(t *testing.T) {
		for _, w := range []way{pod, outside} {
			first := kept(t, 4, w)
			number := int(first[len(first)-1] - '0')
			s.change(t, onePod("web", number, notReady))
			left := func() bool { // once nobody can be on the way to it
				report, err := s.Probe(t.Context(), lab.ProbeRequest{From: w.from, To: w.to, Family: 4})
				return err == nil && report.Results[0].Reached != first
			}
			testkit.Eventually(t, patience, left)
			second := kept(t, 4, w)
			s.change(t, onePod("web", number, ""))
			if now := kept(t, 4, w); now != second {
				t.Errorf("%+v: got %s after %s", w, now, second)
			}
		}
	})
	t.Run("the Service gives it up and takes it again", func(t *testing.T) {
		s.change(t, strings.Replace(strings.Replace(sticky("1"), "ClientIP", "None", 1), "sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}", "", 1))
		for _, w := range []way{pod, outside} {
			testkit.Eventually(t, patience, func() bool { return s.met(t, all, 4, w) == all })
		}
		s.change(t, sticky("1"))
		for _, w := range []way{pod, outside} {
			kept(t, 4, w)
		}
	})
	t.Run("its time is over", func(t *testing.T) {
		met := map[string]bool{}
		silence := time.NewTicker(2100 * time.Millisecond) // each connection begins the second anew
		defer silence.Stop()
		for attempts := 0; len(met) < 2; attempts++ {
			if attempts == 20 {
				t.Fatalf("after %d connections with pauses: always %v", attempts, met)
			}
			met[s.met(t, "one", 4, pod)] = true // one connection
			<-silence.C
		}
	})
}
