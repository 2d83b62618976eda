// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// deleteStream does what an operator's mistake or a lost volume does.
func (c *cluster) deleteStream(name string) {
	c.t.Helper()
	if _, err := c.conn.Request(c.t.Context(), "$JS.API.STREAM.DELETE."+name, nil); err != nil {
		c.t.Fatal(err)
	}
}

// statusOf returns what the leading compiler says of one stream.
func (c *cluster) statusOf(stream string) (text string) {
	c.t.Helper()
	data, err := c.conn.Request(c.t.Context(), schemas.SubjectStatus, nil)
	if err != nil {
		return ""
	}
	var s schemas.Status
	if err := proto.Unmarshal(data, &s); err != nil {
		c.t.Fatal(err)
	}
	for _, f := range s.GetStreams() {
		if f.GetStream() == stream {
			text += f.GetKind() + ": " + f.GetText()
		}
	}
	return text
}

// Fault 5: a stream that somebody deletes is told of in a status, and made anew by whoever writes it: here the compiler
// its own three, with nothing new for the nodes of what stayed as it was.
func TestAStreamThatIsDeletedIsToldOfAndMadeAnew(t *testing.T) {
	for _, of := range schemas.Streams {
		t.Run(of.Name, func(t *testing.T) {
			c := newCluster(t)
			c.makeStreams()
			c.tell(append(webFacts(3), complete())...)
			s, _ := c.start("first", func(s *service) { s.streamsEvery = 50 * time.Millisecond })
			waitReady(t, s)
			testkit.Eventually(t, patience, func() bool { return testutil.CollectAndCount(s.metrics.bytes) == 2*len(schemas.Streams) })
			c.deleteStream(of.Name)
			testkit.Eventually(t, patience, func() bool {
				text := c.statusOf(of.Name)
				return strings.Contains(text, string(streams.Missing)) || strings.Contains(text, string(streams.RolledBack))
			})
			if of.Name == schemas.StateFacts.Name {
				return // the watcher tells and makes it
			}
			testkit.Eventually(t, patience, func() bool {
				is, err := c.conn.StreamState(t.Context(), of.Name)
				told := c.event(string(streams.Missing)) != nil || c.event(string(streams.RolledBack)) != nil
				return err == nil && !is.Missing && told
			})
		})
	}
}
