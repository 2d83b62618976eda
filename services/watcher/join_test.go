// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
	"github.com/deltaplane/deltaplane/services/watcher/core"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// tokens is an API server that knows some tokens, each of a node.
type tokens map[string]string

func (k tokens) Claimed(token string, _ time.Time) (kube.Proof, error) {
	if token == "" {
		return kube.Proof{}, errors.New("that is no token")
	}
	return kube.Proof{Node: k[token]}, nil
}

func (k tokens) Review(_ context.Context, token string) (kube.Proof, error) {
	if node := k[token]; node != "" {
		return kube.Proof{Node: node, NodeUID: "uid-1"}, nil
	}
	return kube.Proof{}, fmt.Errorf("%w: the API server doesn't know it", kube.ErrRefused)
}

// house is a bus with the deployed configuration and a watcher's door.
type house struct {
	server *embedded.Server
	folder *trust.Folder
	nodes  *nodes // that the watcher knows
	close  func() // the door
}

func newHouse(t *testing.T, known reviewer) *house {
	t.Helper()
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := embedded.Start(embedded.Options{Trust: folder.BusPath()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	s := &settings{joinKeys: folder.Path(trust.RoleWatcher)}
	s.Bus, s.BusCredentials, s.BusCA = server.URL(), filepath.Join(s.joinKeys, trust.FileCredentials), filepath.Join(s.joinKeys, trust.FileCA)
	log := &testkit.Log{}
	w := newService(s, "watcher-0", slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.keepDoor(ctx, known) }()
	h := &house{server: server, folder: folder, nodes: &w.nodes}
	h.close = func() {
		if cancel(); done != nil {
			if err := <-done; err != nil {
				t.Errorf("the door: %v", err)
			}
			done = nil
		}
	}
	t.Cleanup(h.close)
	testkit.Eventually(t, time.Minute, func() bool { return strings.Contains(log.String(), "nodes may join") })
	return h
}

// enter connects a node as who it says it is.
func (h *house) enter(t *testing.T, node string, who func() (bus.Identity, error)) (*bus.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Options{
		URL: h.server.URL(), Name: "programmer " + node, User: schemas.User(node), Identity: who, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		RootCAFile: filepath.Join(h.folder.Path("programmer"), trust.FileCA),
	})
	if err == nil {
		t.Cleanup(conn.Close)
	}
	return conn, err
}

// knocking shows a token.
func (h *house) knocking(t *testing.T, token string) func() (bus.Identity, error) {
	t.Helper()
	knock, err := trust.ReadCredential(filepath.Join(h.folder.Path("programmer"), trust.FileJoin))
	if err != nil {
		t.Fatal(err)
	}
	return func() (bus.Identity, error) {
		return bus.Identity{JWT: knock.JWT, Sign: knock.Sign, Token: token}, nil
	}
}

func askCredential(t *testing.T, conn *bus.Conn, subject, node, key, token string) *schemas.CredentialReply {
	t.Helper()
	request, err := proto.Marshal(&schemas.CredentialRequest{Node: node, PublicKey: key, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	data, err := conn.Request(t.Context(), subject, request)
	if err != nil {
		t.Fatal(err)
	}
	var reply schemas.CredentialReply
	if err := proto.Unmarshal(data, &reply); err != nil {
		t.Fatal(err)
	}
	return &reply
}

// A node joins by its token, asks for a credential, and from then on needs neither the watcher nor the API server.
//
// Promise P9: a node has a credential of its own, for half a day, that says nothing but which node it is.
func TestNodeJoinsByItsTokenAndStaysByItsCredential(t *testing.T) {
	const node = "ip-10-0-0-1.example.internal"
	h := newHouse(t, tokens{"a good token": node})
	conn, err := h.enter(t, node, h.knocking(t, "a good token"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := trust.NewCredential()
	if err != nil {
		t.Fatal(err)
	}
	key, err := own.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	reply := askCredential(t, conn, schemas.CredentialSubject(node), node, key, "a good token")
	if own, err = own.With(reply.GetJwt()); err != nil {
		t.Fatalf("%v: %s", err, reply.GetRefused())
	}
	if left := time.Until(own.Expires); left < trust.NodeCredentialTime-time.Hour || left > trust.NodeCredentialTime {
		t.Errorf("the credential ends in %v", left)
	}
	h.close()
	again, err := h.enter(t, node, func() (bus.Identity, error) { return bus.Identity{JWT: own.JWT, Sign: own.Sign}, nil })
	if err != nil {
		t.Fatalf("without the watcher: %v", err)
	}
	if _, err := again.Subscribe(schemas.ApplySubject("node."+node), func(bus.Message) {}); err != nil {
		t.Error(err)
	}
}

func TestDoorRefuses(t *testing.T) {
	h := newHouse(t, tokens{"a good token": "node-a", "another's": "node-b"})
	// The door refuses at once, so that a few tries fit in.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	for _, token := range []string{"a bad token", ""} {
		_, err := bus.Connect(ctx, bus.Options{
			URL: h.server.URL(), Name: "intruder", User: "node-a", Identity: h.knocking(t, token),
			RootCAFile: filepath.Join(h.folder.Path("programmer"), trust.FileCA),
		})
		if err == nil || !strings.Contains(err.Error(), "Authorization") {
			t.Errorf("token %q: %v", token, err)
		}
	}
	conn, err := h.enter(t, "node-a", h.knocking(t, "a good token"))
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	for _, test := range []struct{ node, key, token, want string }{
		{"node-b", key, "a good token", `node "node-a" asks for a credential of "node-b"`},
		{"node-a", "UABC", "a good token", "is no public user key"},
		{"node-a", "", "a good token", "is no public user key"},
		{"node-a", key, "", "that is no token"},
		{"node-a", key, "a bad token", "the API server doesn't know it"},
		{"node-a", key, "another's", `node "node-a" shows a token of node "node-b"`},
	} {
		reply := askCredential(t, conn, schemas.CredentialSubject("node-a"), test.node, test.key, test.token)
		if !strings.Contains(reply.GetRefused(), test.want) || reply.GetJwt() != "" {
			t.Errorf("%+v: refused %q", test, reply.GetRefused())
		}
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	own, err := trust.NewCredential()
	if err != nil {
		t.Fatal(err)
	}
	key, err := own.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func aNode(name, uid string) *schemas.Fact {
	return &schemas.Fact{Object: &schemas.ObjectRef{Kind: convert.KindNode, Name: name, Uid: uid}}
}

// A node whose Node was taken away gets no credential any more, though it is connected and its token still looks good; nor
// does it when another machine has its name.
//
// Promise P9: who is no node any more is out when its credential ends.
// Fault 13: a node that was removed goes on asking.
func TestANodeThatIsGoneGetsNoCredential(t *testing.T) {
	h := newHouse(t, tokens{"a good token": "node-a"})
	h.nodes.take(core.List{Kinds: []string{convert.KindNode}, Facts: []*schemas.Fact{aNode("node-a", "uid-1")}})
	conn, err := h.enter(t, "node-a", h.knocking(t, "a good token"))
	if err != nil {
		t.Fatal(err)
	}
	asks := func(want string) {
		t.Helper()
		reply := askCredential(t, conn, schemas.CredentialSubject("node-a"), "node-a", newKey(t), "a good token")
		if given := reply.GetJwt() != ""; given != (want == "") || !strings.Contains(reply.GetRefused(), want) {
			t.Errorf("given %v, refused %q, want %q", given, reply.GetRefused(), want)
		}
	}
	asks("")
	h.nodes.take(core.Delete{Object: aNode("node-a", "uid-1").GetObject()})
	asks(`the cluster has no Node "node-a"`)
	h.nodes.take(core.Upsert{Fact: aNode("node-a", "uid-2")})
	asks("made anew")
	h.nodes.take(core.List{Kinds: []string{convert.KindNode}, Incomplete: "half of it"})
	asks("made anew")
	h.nodes.take(core.List{Kinds: []string{convert.KindNode}, Refused: []core.Refusal{{Object: aNode("node-a", "uid-1").GetObject()}}})
	asks("")
}

// A node that was put out gets nothing, from the moment that the watcher has the file.
func TestANodeThatWasPutOutGetsNoCredential(t *testing.T) {
	h := newHouse(t, tokens{"a good token": "node-a"})
	conn, err := h.enter(t, "node-a", h.knocking(t, "a good token"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.folder.Revoke("node-a"); err != nil {
		t.Fatal(err)
	}
	if got := askCredential(t, conn, schemas.CredentialSubject("node-a"), "node-a", newKey(t), "a good token").GetRefused(); !strings.Contains(got, "put out") {
		t.Errorf("refused %q", got)
	}
}
