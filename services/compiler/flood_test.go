// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// A node that reports without end is named, and most of that isn't read; what another reports is.
//
// Fault 13: floods of reports.
func TestANodeThatFloodsIsNamedAndOthersAreHeard(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	s, _ := c.start("first")
	waitReady(t, s)
	const flood = 20 * reportsAtOnce
	for range flood {
		if err := c.conn.Publish(schemas.AppliedSubject("loud"), encode(&schemas.Applied{Node: "loud"})); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.conn.Publish(schemas.AppliedSubject("quiet"), encode(&schemas.Applied{Node: "quiet"})); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() bool {
		data, err := c.conn.Request(t.Context(), schemas.SubjectStatus, encode(&schemas.StatusRequest{}))
		var status schemas.Status
		if err != nil || proto.Unmarshal(data, &status) != nil {
			t.Fatalf("no status: %v", err)
		}
		var named, heard bool
		for _, n := range status.GetNodes() {
			named = named || n.GetNode() == "loud" && strings.Contains(n.GetReason(), "floods")
			heard = heard || n.GetNode() == "quiet" && n.GetApplied() != nil
		}
		return named && heard
	})
	if unread := testutil.ToFloat64(s.metrics.unread); unread < flood/2 {
		t.Errorf("%v of %d reports weren't read", unread, flood)
	}
}

// A node that asks without end is named, and most of that isn't looked at; what another asks is answered.
//
// Fault 13: floods of questions.
func TestANodeThatAsksWithoutEndIsNotHeardAndOthersAreAnswered(t *testing.T) {
	c := newCluster(t)
	c.makeStreams()
	c.tell(append(webFacts(3), complete())...)
	s, _ := c.start("first")
	waitReady(t, s)
	s.mu.Lock()
	session := s.running
	s.mu.Unlock()
	const flood = 20 * questionsAtOnce
	answered, began := 0, time.Now()
	for range flood {
		replied := 0
		session.answerSync(schemas.SyncSubject("loud"))(t.Context(), encode(&schemas.SyncRequest{Node: "loud"}), func([]byte) error {
			replied = 1
			return nil
		})
		answered += replied
	}
	if most := questionsAtOnce + questionsPerSecond*time.Since(began).Seconds(); float64(answered) > most+1 {
		t.Errorf("%d questions were answered, want %.0f at most", answered, most)
	}
	if unread := testutil.ToFloat64(s.metrics.unanswered); int(unread) != flood-answered {
		t.Errorf("%v of %d questions weren't read, and %d were answered", unread, flood, answered)
	}
	if _, err := c.conn.Request(t.Context(), schemas.SyncSubject("quiet"), encode(&schemas.SyncRequest{Node: "quiet"})); err != nil {
		t.Errorf("another node: %v", err)
	}
}
