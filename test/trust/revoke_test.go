// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// given is a folder with a credential that a watcher has given to a node, for a key that nobody else knows.
func (s *stage) given(t *testing.T, node string) string {
	t.Helper()
	own, err := trust.NewCredential()
	if err != nil {
		t.Fatal(err)
	}
	key, err := own.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	door := trust.Door{Folder: s.folder.Path(trust.RoleWatcher)}
	token, _, err := door.Issue(schemas.User(node), key)
	if err != nil {
		t.Fatal(err)
	}
	if own, err = own.With(token); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "given")
	if err := own.Store(filepath.Join(folder, trust.FileCredentials)); err != nil {
		t.Fatal(err)
	}
	return folder
}

func (s *stage) refused(t *testing.T, what, folder string) {
	t.Helper()
	_, err := knockAs(t, s.server.URL(), filepath.Join(s.folder.Path(trust.RoleCompiler), trust.FileCA), filepath.Join(folder, trust.FileCredentials), "")
	if err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
		t.Errorf("%s: %v, want it refused", what, err)
	}
}

// hungUp waits until the server has closed a connection.
func hungUp(t *testing.T, r *raw) {
	t.Helper()
	testkit.Eventually(t, soon, func() bool {
		_, _, err := r.sync()
		return err != nil
	})
}

// A node is put out: the server closes the connections that it has, and refuses each credential that it was given, whatever
// its key, also one that it had never used. All others stay, but for those whose credentials the same key has signed: they
// get new ones.
//
// Promise P9: one node can be put out, at once and for whatever keys it has made.
// Fault 13: credentials that were stolen.
func TestARevokedNodeIsOut(t *testing.T) {
	s := newStage(t)
	ca := filepath.Join(s.folder.Path(trust.RoleCompiler), trust.FileCA)
	s.paths["victim"], s.paths["stolen"] = s.given(t, "node-x"), s.given(t, "node-x")
	others := []string{"node-a", "node-b", trust.RoleCompiler, trust.RoleWatcher}
	in := map[string]*raw{}
	for _, who := range append(others, "victim") {
		r, err := knockAs(t, s.server.URL(), ca, filepath.Join(s.paths[who], trust.FileCredentials), "")
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		in[who] = r
	}
	changed, err := s.folder.Revoke("node-x")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"watcher/revoked-nodes", "watcher/nodes.nk", "bus/accounts.conf"}; !slices.Equal(changed, want) {
		t.Errorf("changed %q, want %q", changed, want)
	}
	if err := s.server.Reload(); err != nil {
		t.Fatal(err)
	}
	hungUp(t, in["victim"])
	s.refused(t, "what it had", s.paths["victim"])
	s.refused(t, "what it had never used", s.paths["stolen"])
	for _, who := range others {
		if _, _, err := in[who].sync(); err != nil {
			t.Errorf("%s was put out, too: %v", who, err)
		}
	}
	door := trust.Door{Folder: s.folder.Path(trust.RoleWatcher)}
	if _, _, err := door.Issue("node-x", newKey(t)); err == nil || !strings.Contains(err.Error(), "node-x is put out") {
		t.Errorf("the watchers give it a credential: %v", err)
	}
	if _, err := s.folder.Allow("node-x"); err != nil {
		t.Fatal(err)
	}
	s.refused(t, "what it had, after it was let in again", s.paths["stolen"])
	if _, err := knockAs(t, s.server.URL(), ca, filepath.Join(s.given(t, "node-x"), trust.FileCredentials), ""); err != nil {
		t.Errorf("let in again it has a new credential, and is refused: %v", err)
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// A node without Kubernetes has a file that never ends: also that one is refused for ever, and nobody else's.
func TestARevokedNodesFileIsWorthNothing(t *testing.T) {
	s := newStage(t)
	a, b := s.enter(t, "node-a"), s.enter(t, "node-b")
	kept := t.TempDir()
	stolen, err := trust.ReadCredential(filepath.Join(s.paths["node-a"], trust.FileCredentials))
	if err != nil {
		t.Fatal(err)
	}
	if err := stolen.Store(filepath.Join(kept, trust.FileCredentials)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.folder.Revoke("node-a"); err != nil {
		t.Fatal(err)
	}
	if err := s.folder.Node("node-a"); err == nil || !strings.Contains(err.Error(), "trust allow") {
		t.Errorf("it gets a new file: %v", err)
	}
	if err := s.server.Reload(); err != nil {
		t.Fatal(err)
	}
	hungUp(t, a)
	if _, _, err := b.sync(); err != nil {
		t.Errorf("node-b was put out, too: %v", err)
	}
	s.refused(t, "the file", kept)
	if _, err := s.folder.Allow("node-a"); err != nil {
		t.Fatal(err)
	}
	if err := s.folder.Node("node-a"); err != nil {
		t.Fatal(err)
	}
	if err := s.server.Reload(); err != nil {
		t.Fatal(err)
	}
	s.refused(t, "the old file, after it was let in again", kept)
	s.enter(t, "node-a")
}
