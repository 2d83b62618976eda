// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
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
)

// tokens is an API server that knows some tokens, each of a node.
type tokens map[string]string

func (k tokens) Node(_ context.Context, token string) (string, error) {
	if node := k[token]; node != "" {
		return node, nil
	}
	return "", errors.New("the API server doesn't know the token")
}

// house is a bus with the deployed configuration and a watcher's door.
type house struct {
	server *embedded.Server
	folder *trust.Folder
	close  func() // the door
}

func newHouse(t *testing.T, known tokens) *house {
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
	h := &house{server: server, folder: folder}
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

func askCredential(t *testing.T, conn *bus.Conn, subject, node, key string) *schemas.CredentialReply {
	t.Helper()
	request, err := proto.Marshal(&schemas.CredentialRequest{Node: node, PublicKey: key})
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
// Promise P9: a node has a credential of its own, for a day, that says nothing but which node it is.
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
	reply := askCredential(t, conn, schemas.CredentialSubject(node), node, key)
	if own, err = own.With(reply.GetJwt()); err != nil {
		t.Fatalf("%v: %s", err, reply.GetRefused())
	}
	if left := time.Until(own.Expires); left < 23*time.Hour || left > 24*time.Hour {
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
	h := newHouse(t, tokens{"a good token": "node-a"})
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
	for _, test := range []struct{ node, key, want string }{
		{"node-b", "UABC", `node "node-a" asks for a credential of "node-b"`},
		{"node-a", "UABC", "is no public user key"},
		{"node-a", "", "is no public user key"},
	} {
		reply := askCredential(t, conn, schemas.CredentialSubject("node-a"), test.node, test.key)
		if !strings.Contains(reply.GetRefused(), test.want) || reply.GetJwt() != "" {
			t.Errorf("%+v: refused %q", test, reply.GetRefused())
		}
	}
}

// counted counts how often the API server is asked.
type counted struct {
	tokens
	asked int
}

func (c *counted) Node(ctx context.Context, token string) (string, error) {
	c.asked++
	return c.tokens.Node(ctx, token)
}

// A node that knocks again finds the answer that came too late for its first knock; one that was refused is asked about
// each time; and no answer is kept longer than it may be.
func TestAnswersAboutTokensAreRememberedForAWhile(t *testing.T) {
	api, start := &counted{tokens: tokens{"good": "node-a"}}, time.Now()
	var k known
	for i, step := range []struct {
		token string
		after time.Duration
		asked int
	}{
		{"good", 0, 1},
		{"good", knownTime / 2, 1},
		{"good", knownTime, 2},
		{"bad", knownTime, 3},
		{"bad", knownTime, 4},
	} {
		node, err := k.node(t.Context(), api, step.token, start.Add(step.after))
		if api.asked != step.asked || (node == "node-a") != (step.token == "good") || (err == nil) != (step.token == "good") {
			t.Errorf("step %d: node %q, %v; asked %d times, want %d", i, node, err, api.asked, step.asked)
		}
	}
	for i := range 3 * knownMost {
		k.add([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, knownToken{"node-b", start.Add(time.Hour)}, start)
	}
	if len(k.tokens) > knownMost {
		t.Errorf("%d tokens are remembered, want at most %d", len(k.tokens), knownMost)
	}
}
