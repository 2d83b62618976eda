// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

func TestWait(t *testing.T) {
	s := newStage(t)
	s.see(map[string]*schemas.SeenReply{
		"EndpointSlice/shop/cart-x": {StateSequence: 40, ResourceVersion: "7"}, "//": {StateSequence: 39}, "Service/shop/late": {StateSequence: 41},
		"Service/shop/none": {Unknown: true}, "Service/shop/away": {Refused: "the API server is away"},
		"Service/shop/anew": {StateSequence: 12, StateEpoch: 2},
	})
	s.change(func(status *schemas.Status) { status.Revision = 4 })
	for _, args := range [][]string{{"wait"}, {"wait", "4"}, {"wait", "endpointslice/shop/cart-x"}} {
		if stdout, stderr, code := command(t, args...); code != exitOK || stdout != "live on 2 of 2 nodes: revision 4\n" {
			t.Errorf("%v: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
	if stdout, _, code := command(t, "wait", "endpointslice/shop/cart-x", "-o", "json"); code != exitOK || !strings.Contains(stdout, `"resourceVersion": "7"`) {
		t.Errorf("exit %d: %s", code, stdout)
	}
	s.change(func(status *schemas.Status) {
		status.NodesLacking, status.NodesConverged, status.Nodes = 1, 1, status.Nodes[:1]
		status.Nodes[0].Converged, status.Nodes[0].Behind, status.Nodes[0].Reason = false, 1, "bus reconnecting"
	})
	for want, args := range map[string][]string{
		"revision 4 isn't on b (bus reconnecting)":       {"wait", "4"},
		"the cluster is at revision 4, before 9":         {"wait", "9"},
		"compiled STATE up to message 40, not yet to 41": {"wait", "service/shop/late"},
		"the API server is away":                         {"wait", "service/shop/away"},
		"reads STATE of epoch 0, the watcher writes":     {"wait", "service/shop/anew"},
	} {
		_, stderr, code := command(t, append(args, "--timeout", "300ms")...)
		if code != exitNotHealthy || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d: %q doesn't say %q", args, code, stderr, want)
		}
	}
	s.change(func(status *schemas.Status) { // a rollback is held: nodes have the revision, and not what objects say
		status.NodesLacking, status.Hold = 0, &schemas.Hold{Revision: 2, RolledBack: 3, By: "ada"}
	})
	for _, args := range [][]string{{"wait"}, {"wait", "endpointslice/shop/cart-x"}} {
		if _, stderr, code := command(t, append(args, "--timeout", "300ms")...); code != exitNotHealthy || !strings.Contains(stderr, "which ada rolled back to from 3") {
			t.Errorf("%v while a rollback is held: exit %d: %q", args, code, stderr)
		}
	}
	if stdout, stderr, code := command(t, "wait", "4"); code != exitOK {
		t.Errorf("a revision while a rollback is held: exit %d: %s%s", code, stdout, stderr)
	}
	if _, stderr, code := command(t, "wait", "service/shop/none"); code != exitError || !strings.Contains(stderr, "there is no Service/shop/none") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// see answers how far STATE must be read, by "kind/namespace/name".
func (s *stage) see(replies map[string]*schemas.SeenReply) {
	s.t.Helper()
	_, err := s.conn.Respond(schemas.SubjectSeen, "", func(_ context.Context, data []byte, reply func([]byte) error) {
		var request schemas.SeenRequest
		if err := proto.Unmarshal(data, &request); err == nil {
			o := request.GetObject()
			_ = reply(encoded(s.t, replies[o.GetKind()+"/"+o.GetNamespace()+"/"+o.GetName()]))
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
}
