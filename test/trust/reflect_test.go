// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"testing"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// A node has what it asks answered to where other nodes listen, which no server can forbid. What they hear then is the
// compiler's own, and sealed as what it is: they go on as they were, and come to what the cluster is.
//
// Promise P9: what a node has others hear changes nothing.
// Fault 13: answers that are reflected to other nodes.
func TestReflectedAnswersChangeNothing(t *testing.T) {
	d := newDeployed(t)
	for _, node := range []string{"node-b", "node-c"} {
		if err := d.keys.Node(node); err != nil {
			t.Fatal(err)
		}
	}
	enter := func(node string) *raw {
		r, err := knock(t, d.url, d.keys.NodePath(node))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	attacker, neighbour := enter("node-b"), enter("node-c")
	places := []string{schemas.ApplySubject("cluster"), schemas.SubjectHeartbeat, schemas.ApplySubject("node.node-a"), schemas.InboxPrefix("node-a") + ".x"}
	neighbour.subscribe(schemas.InboxPrefix("node-c") + ".>")
	if _, _, err := neighbour.sync(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	d.until("answers are reflected", func() bool {
		for _, place := range append(places, schemas.InboxPrefix("node-c")+".x") {
			attacker.publish(schemas.SyncSubject("node-b"), place, nil)
		}
		if _, _, err := attacker.sync(); err != nil {
			t.Fatal(err)
		}
		_, heard, err := neighbour.sync()
		if err != nil {
			t.Fatal(err)
		}
		answers += len(heard)
		return answers >= 5
	})
	d.until("the node holds what the cluster is", d.agrees)
}

// A reader has what it asks answered to where streams take what they store, and to where nodes listen: no answer leaves the
// readers' account.
//
// Promise P9: whatever place for an answer a reader names, nothing comes to a stream or to a node.
func TestAnswersToAReaderStayAmongReaders(t *testing.T) {
	d := newDeployed(t)
	reader, err := knock(t, d.url, d.keys.Path(trust.RoleReader))
	if err != nil {
		t.Fatal(err)
	}
	own, written := schemas.InboxPrefix(trust.RoleReader)+".x", map[string]string{
		schemas.StateFacts.Name: schemas.StateSubject("Service", "shop", "forged"), schemas.Deltas.Name: schemas.DeltaSubject("forged"),
	}
	reader.subscribe(own)
	for _, place := range []string{
		written[schemas.StateFacts.Name], written[schemas.Deltas.Name], schemas.SubjectEpoch, schemas.ApplySubject("cluster"), schemas.SubjectHeartbeat, own,
	} {
		reader.publish("DPJS.DIRECT.GET.STATE", place, []byte(`{"seq":1}`))
		reader.publish("DPJS.STREAM.INFO.STATE", place, nil)
	}
	answers := 0
	d.until("a reader is answered where it may be", func() bool {
		_, heard, err := reader.sync()
		if err != nil {
			t.Fatal(err)
		}
		answers += len(heard)
		return answers == 2
	})
	for stream, subject := range written {
		err := d.conn.Read(t.Context(), bus.ReadOptions{Stream: stream, Subjects: []string{subject}}, func(bus.Record) error {
			t.Errorf("an answer to a reader stands in stream %s", stream)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	d.until("the node holds what the cluster is", d.agrees)
	d.allBelieved()
}
