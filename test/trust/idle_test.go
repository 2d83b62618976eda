// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// What a node reports without news reaches APPLIED, in another account, and leaves it again.
func TestAnIdleReportLeavesTheStream(t *testing.T) {
	s := newStage(t)
	compiler := s.pipelineOf(t, "compiler")
	if err := compiler.EnsureStreams(t.Context(), 1, schemas.AppliedReports); err != nil {
		t.Fatal(err)
	}
	node, err := bus.Connect(t.Context(), bus.Options{
		URL: s.server.URL(), Name: "node-a", User: schemas.User("node-a"),
		CredentialsFile: s.paths["node-a"] + "/bus.creds", RootCAFile: s.paths["node-a"] + "/ca.crt",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	if err := node.PublishExpiring(schemas.AppliedSubject("node-a"), []byte("x"), time.Second); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, soon, func() bool {
		is, err := compiler.StreamState(t.Context(), schemas.AppliedReports.Name)
		return err == nil && is.Last == 1 && is.Messages == 0
	})
}
