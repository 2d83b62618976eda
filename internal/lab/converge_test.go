// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/schemas"
)

// A STATE in which nobody has led yet when its epoch is looked for may hold facts a moment later.
func TestAStateWithoutAnEpochIsRead(t *testing.T) {
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.EnsureStreams(t.Context(), 1, schemas.StateFacts); err != nil {
		t.Fatal(err)
	}
	fact, err := proto.Marshal(&schemas.Fact{State: &schemas.Fact_Service{Service: &schemas.Service{}}})
	if err != nil {
		t.Fatal(err)
	}
	subject := schemas.StateSubject("Service", "shop", "web")
	if err := conn.Publish(subject, fact); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	var view stateView
	if err := view.update(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if view.facts[subject] == nil {
		t.Errorf("the view has %v, want %s", view.facts, subject)
	}
}
