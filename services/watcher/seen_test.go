// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// seen asks how far STATE must be read to have a Service of the shop.
func (b *testBus) seen(ref *schemas.ObjectRef) *schemas.SeenReply {
	b.t.Helper()
	request, err := proto.Marshal(&schemas.SeenRequest{Object: ref})
	if err != nil {
		b.t.Fatal(err)
	}
	answer, err := b.conn.Request(b.t.Context(), schemas.SubjectSeen, request)
	if err != nil {
		b.t.Fatal(err)
	}
	var reply schemas.SeenReply
	if err := proto.Unmarshal(answer, &reply); err != nil {
		b.t.Fatal(err)
	}
	return &reply
}

func shopService(name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: name}
}

// A change that is in a file is in STATE by the time that the question after it is answered: no waiting, no guessing.
func TestABarrierIsBehindWhatTheFolderHolds(t *testing.T) {
	b, path := startBus(t), t.TempDir()
	file := filepath.Join(path, "a.yaml")
	write(t, file, yamlOf("cart", 1)+yamlOf("gone", 1)+yamlOf("bad", 70000))
	start(t, b.server.URL(), onFolder(path)).complete(t)
	for port := 2; port < 40; port++ {
		write(t, file, yamlOf("cart", port)+yamlOf("gone", 1)+yamlOf("bad", 70000))
		reply := b.seen(shopService("cart"))
		if state, last := b.state(); state["Service shop/cart"] != fmt.Sprint(port) || reply.GetStateSequence() != last {
			t.Fatalf("the reply is %v, STATE has %v up to %d", reply, state, last)
		}
	}
	write(t, file, yamlOf("cart", 99)+yamlOf("bad", 70000))
	all, gone := b.seen(nil), b.seen(shopService("gone"))
	if state, last := b.state(); state["Service shop/gone"] != "gone" || state["Service shop/cart"] != "99" ||
		gone.GetStateSequence() != last || all.GetStateSequence() != last || gone.GetUnknown() {
		t.Errorf("replies %v and %v, STATE has %v up to %d", all, gone, state, last)
	}
	if got := b.seen(shopService("never")); !got.GetUnknown() {
		t.Errorf("what there never was: %v", got)
	}
	for want, ref := range map[string]*schemas.ObjectRef{
		"document 2: Service shop/bad: spec.ports[0].port: ":         shopService("bad"),
		"Deployment is no kind that deltaplane watches; it watches ": {Kind: "Deployment", Namespace: "shop", Name: "cart"},
	} {
		if got := b.seen(ref); !strings.Contains(got.GetRefused(), want) || got.GetStateSequence() != 0 {
			t.Errorf("got %v, want %q", got, want)
		}
	}
}
