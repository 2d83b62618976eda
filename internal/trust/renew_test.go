// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// issued is a folder with a node and two people.
func issued(t *testing.T) *Folder {
	t.Helper()
	f, err := Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Node("node.b"); err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"ada": RoleOperator, "archive": RoleReader} {
		if _, err := f.User(role, name); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func rotate(t *testing.T, f *Folder, key, step string) Rotation {
	t.Helper()
	r, err := f.Rotate(key)
	if err != nil || r.Step != step {
		t.Fatalf("step %q of %s: %v, want %q", r.Step, key, err, step)
	}
	return r
}

// What nodes and people were given as files follows each key that is replaced, and the step that changes it names it.
func TestAReplacedKeyReachesWhatNodesAndPeopleHave(t *testing.T) {
	for key, c := range map[string]struct{ file, step, signer string }{
		"node":     {"nodes/" + nodeUser + "/bus.creds", StepUsed, roleKey(RoleNode)},
		"operator": {"users/ada/bus.creds", StepUsed, roleKey(RoleOperator)},
		"reader":   {"users/archive/bus.creds", StepUsed, roleKey(RoleReader)},
	} {
		t.Run(key, func(t *testing.T) {
			f := issued(t)
			for _, step := range []string{StepIntroduced, StepUsed, StepRetired} {
				if r := rotate(t, f, key, step); slices.Contains(r.Changed, c.file) != (step == c.step) {
					t.Errorf("%s changes %v; %s changes when the key is %s", step, r.Changed, c.file, c.step)
				}
			}
			signer, err := signerOf(filepath.Join(f.path, c.file))
			if err != nil {
				t.Fatal(err)
			}
			if want, err := f.keys.public(c.signer); err != nil || signer != want {
				t.Errorf("%s is signed by %s, which is believed no more; want %s (%v)", c.file, signer, want, err)
			}
		})
	}
}

// nodeUser is the name on the bus of node.b.
const nodeUser = "_DPNM8P9EC8"

func TestAReplacedSealReachesNodesWithFiles(t *testing.T) {
	f := issued(t)
	for _, step := range []string{StepIntroduced, StepUsed, StepRetired} {
		r := rotate(t, f, "seal-compiler", step)
		if file := "nodes/" + nodeUser + "/trusted-keys.pem"; slices.Contains(r.Changed, file) != (step != StepUsed) {
			t.Errorf("%s changes %v", step, r.Changed)
		}
		if step == StepUsed {
			continue // the same keys, in another order
		}
		all, err := os.ReadFile(f.file(folderProgrammer, FileSeals))
		if err != nil {
			t.Fatal(err)
		}
		own, err := os.ReadFile(filepath.Join(f.NodePath("node.b"), FileSeals))
		if err != nil || !bytes.Equal(all, own) {
			t.Errorf("%s: the node believes\n%swhile programmers are given\n%s(%v)", step, own, all, err)
		}
	}
}

// Nodes, people and services may be called alike, and have keys of their own all the same.
func TestWhoIsCalledAlikeHasAKeyOfItsOwn(t *testing.T) {
	f := issued(t)
	before, err := f.keys.public(userKey(RoleWatcher, RoleWatcher))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Node(RoleWatcher); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Revoke(RoleWatcher); err != nil {
		t.Fatal(err)
	}
	if after, err := f.keys.public(userKey(RoleWatcher, RoleWatcher)); err != nil || after != before {
		t.Errorf("a node called watcher was put out, and the watcher's key is %s, was %s (%v)", after, before, err)
	}
	if _, err := f.User(RoleReader, RoleCompiler); err == nil {
		t.Error("a person was named like a service")
	}
}
