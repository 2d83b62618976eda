// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// gate is a bus with the deployed configuration, and a watcher's door that knows one token.
type gate struct {
	t      testing.TB
	server *embedded.Server
	folder *trust.Folder
	asked  chan string // tokens that were shown
}

func newGate(t *testing.T, port int) *gate {
	t.Helper()
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, folder: folder, asked: make(chan string, 64)}
	if g.server, err = embedded.Start(embedded.Options{Trust: folder.BusPath(), Port: port}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.server.Shutdown)
	return g
}

// open lets nodes in until the function that it returns is called.
func (g *gate) open() (shut func()) {
	g.t.Helper()
	door := trust.Door{Folder: g.folder.Path(trust.RoleWatcher)}
	atDoor, inside := g.connect(trust.FileDoor), g.connect(trust.FileCredentials)
	_, err := atDoor.Attend(trust.SubjectDoor, "", func(string) bus.Responder {
		return func(_ context.Context, data []byte, reply func([]byte) error) {
			answer, _ := door.Answer(data, func(_, token string) (string, error) {
				g.asked <- token
				if token != "a good token" {
					return "", errors.New("not known")
				}
				return schemas.User("node-a"), nil
			})
			_ = reply(answer)
		}
	})
	if err == nil {
		_, err = inside.Attend(schemas.SubjectAllCredentials, "", func(string) bus.Responder {
			return func(_ context.Context, data []byte, reply func([]byte) error) {
				var request schemas.CredentialRequest
				if err := proto.Unmarshal(data, &request); err != nil {
					g.t.Error(err)
				}
				token, _, err := door.Issue(schemas.User("node-a"), request.GetPublicKey())
				if err != nil {
					g.t.Error(err)
				}
				encoded, err := proto.Marshal(&schemas.CredentialReply{Jwt: token})
				if err == nil {
					err = reply(encoded)
				}
				if err != nil {
					g.t.Error(err)
				}
			}
		})
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return func() { atDoor.Close(); inside.Close() }
}

func (g *gate) connect(credentials string) *bus.Conn {
	g.t.Helper()
	folder := g.folder.Path(trust.RoleWatcher)
	conn, err := bus.Connect(g.t.Context(), bus.Options{
		URL: g.server.URL(), Name: "watcher", CredentialsFile: filepath.Join(folder, credentials), RootCAFile: filepath.Join(folder, trust.FileCA),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(conn.Close)
	return conn
}

// settings are those of a node that joins.
func (g *gate) settings(dir string) *settings {
	g.t.Helper()
	s := &settings{node: "node-a", credentialDir: dir}
	s.Bus, s.BusCA = g.server.URL(), filepath.Join(g.folder.Path("programmer"), trust.FileCA)
	s.joinCredentials, s.joinToken = filepath.Join(g.folder.Path("programmer"), trust.FileJoin), filepath.Join(g.t.TempDir(), "token")
	if err := os.WriteFile(s.joinToken, []byte("a good token\n"), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return s
}

// run connects as a programmer does, until the function that it returns is called.
func (g *gate) run(s *settings) (m *member, end func()) {
	g.t.Helper()
	m, err := newMember(s, slog.New(slog.NewTextHandler(g.t.Output(), nil)))
	if err != nil {
		g.t.Fatal(err)
	}
	conn, err := bus.Connect(g.t.Context(), bus.Options{
		URL: s.Bus, Name: "programmer node-a", User: "node-a", RootCAFile: s.BusCA, Identity: m.identity, Log: m.log,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	m.connected()
	ctx, cancel := context.WithCancel(g.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.keep(ctx, conn) }()
	return m, func() { cancel(); <-done; conn.Close() }
}

func (m *member) credential() trust.Credential {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own
}

// A programmer that starts again needs neither the watcher nor the API server: its credential is in a file of its own.
func TestCredentialOutlivesAProgrammer(t *testing.T) {
	g := newGate(t, 0)
	shut := g.open()
	s := g.settings(t.TempDir())
	m, end := g.run(s)
	testkit.Eventually(t, soon, func() bool { return m.credential().JWT != "" })
	end()
	if got := <-g.asked; got != "a good token" {
		t.Errorf("the token that was shown: %q", got)
	}
	file := filepath.Join(s.credentialDir, credentialFile)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v; want one that only its owner reads", file, info, err)
	}
	shut()
	if err := os.Remove(s.joinToken); err != nil {
		t.Fatal(err)
	}
	_, end = g.run(s)
	end()
}

// The keys of the bus were made anew, so the credential that a node has kept is worth nothing: it joins again.
func TestNodeJoinsAgainWhenItsCredentialIsRefused(t *testing.T) {
	old := newGate(t, 0)
	defer old.open()()
	dir := t.TempDir()
	m, end := old.run(old.settings(dir))
	testkit.Eventually(t, soon, func() bool { return m.credential().JWT != "" })
	end()
	worthless := m.credential().JWT

	g := newGate(t, 0)
	defer g.open()()
	m, end = g.run(g.settings(dir))
	defer end()
	if got := <-g.asked; got != "a good token" {
		t.Errorf("the token that was shown: %q", got)
	}
	testkit.Eventually(t, soon, func() bool { own := m.credential().JWT; return own != "" && own != worthless })
}

// A file that holds no credential is said to be of no use, and the node joins.
func TestFileThatIsNoCredentialIsPassedOver(t *testing.T) {
	dir, log := t.TempDir(), &testkit.Log{}
	if err := os.WriteFile(filepath.Join(dir, credentialFile), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := newMember(&settings{node: "node-a", credentialDir: dir}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.credential().PublicKey(); err != nil || m.credential().JWT != "" {
		t.Errorf("a key of its own: %v", err)
	}
	if log.String() == "" {
		t.Error("the log doesn't say so")
	}
}

// By the clock of a node that is half a day ahead each credential is old as soon as it is given.
func TestAClockThatIsAheadDoesNotAskWithoutEnd(t *testing.T) {
	g := newGate(t, 0)
	watcher := g.connect(trust.FileCredentials)
	var asked atomic.Int32
	if _, err := watcher.Attend(schemas.SubjectAllCredentials, "", func(string) bus.Responder {
		return func(_ context.Context, data []byte, reply func([]byte) error) {
			asked.Add(1)
			nodes, err := trust.OpenIssuer(filepath.Join(g.folder.Path(trust.RoleWatcher), trust.FileNodes))
			if err != nil {
				t.Error(err)
				return
			}
			var request schemas.CredentialRequest
			if err := proto.Unmarshal(data, &request); err != nil {
				t.Error(err)
			}
			token, err := nodes.Issue(schemas.User("node-a"), request.GetPublicKey(), time.Hour) // less than half of what is usual
			if err != nil {
				t.Error(err)
			}
			encoded, err := proto.Marshal(&schemas.CredentialReply{Jwt: token})
			if err == nil {
				err = reply(encoded)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := g.folder.Node("node-a"); err != nil {
		t.Fatal(err)
	}
	conn, err := bus.Connect(t.Context(), bus.Options{
		URL: g.server.URL(), Name: "node-a", CredentialsFile: filepath.Join(g.folder.NodePath("node-a"), trust.FileCredentials),
		RootCAFile: filepath.Join(g.folder.NodePath("node-a"), trust.FileCA),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	m, err := newMember(g.settings(t.TempDir()), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.keep(ctx, conn) }()
	defer func() { cancel(); <-done }()
	testkit.Eventually(t, soon, func() bool { return m.credential().JWT != "" })
	for range 200 { // enough for many more questions, if they were asked one after the other
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("it has asked %d times, want once", n)
	}
}
