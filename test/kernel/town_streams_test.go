// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
)

// cuts each keep x/a from w/a, and x/b not.
var cuts = map[string]string{
	"the server's NetworkPolicy": policy("w", "in", everyPod+", ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]"),
	"the client's tier":          tier("out", "Admin", 10, xA+", egress: [{action: Deny, to: "+fromW+"}]"),
}

// bystander is a policy about none of them: connections are known from the first policy on.
var bystander = policy("z", "some", everyPod)

// streams lets places ask w/a on and on, each by one socket for each protocol, way and family.
func (s *scene) streams(t *testing.T, from ...string) loads {
	t.Helper()
	all := loads{}
	for _, place := range from {
		for _, a := range s.attempts(t, way{from: place, to: "w/server:8080 w/a:80"}) {
			stop, err := s.keepAsking(t, a)
			check(t, err)
			all[fmt.Sprintf("%s → %s %s by %s", a.from, a.to, a.target, a.proto)] = stop
		}
	}
	return all
}

// goesOn dials new connections for 1.2 s, as often as it says.
func (s *scene) goesOn(t *testing.T, from string) {
	t.Helper()
	report, err := s.Probe(t.Context(), lab.ProbeRequest{From: from, To: "w/server:8080", Count: 12, Interval: 100 * time.Millisecond})
	check(t, err)
	for _, r := range report.Results {
		if r.Outcome != agent.OK {
			t.Errorf("from %s: %+v", from, r)
		}
	}
}

// interrupt denies what streams are in the middle of, for more than a second, and returns what came of them: of x/a, and
// of x/b; and how long that was.
func (s *scene) interrupt(t *testing.T, denial string) (denied, others map[string]*agent.Load, lasted time.Duration) {
	t.Helper()
	ofA, ofB := s.streams(t, theA...), s.streams(t, theB...)
	s.goesOn(t, "x/a")
	s.become(t, denial)
	live := time.Now()
	s.expectAtOnce(t, theA, misses(nil, "w/server:8080 w/a:80").ways...)
	s.goesOn(t, "x/b")
	lasted = time.Since(live)
	s.become(t, "")
	s.expectAtOnce(t, theA, reaches(nil, "w/a", "w/server:8080 w/a:80").ways...)
	s.goesOn(t, "x/a")
	return ofA.end(t), ofB.end(t), lasted
}

// Policy row 3: connections and datagrams in use end when policies cease to allow them, at the client or at the server,
// directly or through a Service, by sockets or by packets alone; those that are still allowed notice nothing.
func TestPoliciesEndConnections(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ended", village+bystander)
	for name, denial := range cuts {
		t.Run(name, func(t *testing.T) {
			denied, others, lasted := s.interrupt(t, denial)
			for name, load := range denied {
				if load.LongestGapMicros < lasted.Microseconds() || load.Reached["w/a"] < 20 {
					t.Errorf("%s: %+v, want silence for the %v of the denial", name, load, lasted)
				}
			}
			noticedNothing(t, others, lasted)
		})
	}
}

// noticedNothing holds loads to answers all the time: whom a denial of that length met has none for as long.
func noticedNothing(t *testing.T, all map[string]*agent.Load, lasted time.Duration) {
	t.Helper()
	for name, load := range all {
		if load.LongestGapMicros >= lasted.Microseconds() || load.Reached["w/a"] < 20 {
			t.Errorf("%s: %+v, want answers all the time", name, load)
		}
	}
}

// Policy row 3: by choice, what has begun goes on, and only what begins is denied.
func TestPoliciesKeepConnections(t *testing.T) {
	t.Parallel()
	s := newScene(t, "kept", village+bystander, "--policy-keep-established")
	for name, denial := range cuts {
		t.Run(name, func(t *testing.T) {
			denied, others, lasted := s.interrupt(t, denial)
			noticedNothing(t, denied, lasted)
			noticedNothing(t, others, lasted)
		})
	}
}
