// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const halfBad = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nfoo: 1\n"

// Whoever starts a lab that stays has gone before its log is read, so what can't be used is told on the way.
func TestWhatIsSetAsideReachesThePerson(t *testing.T) {
	path := filepath.Join(t.TempDir(), "half.yaml")
	if err := os.WriteFile(path, []byte(halfBad), 0o600); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var stderr bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetErr(&stderr)
	for _, p := range []parent{{}, {detached: true, story: write}} {
		files := manifestFlags{paths: []string{path}}
		if _, spoilt, err := files.load(cmd, nil, p.complaints(cmd)); err != nil || spoilt == nil {
			t.Fatalf("got %v and %v, want one spoilt document", spoilt, err)
		}
	}
	write.Close()
	story, err := io.ReadAll(read)
	if err != nil {
		t.Fatal(err)
	}
	for who, said := range map[string]string{"the parent": string(story), "the command itself": stderr.String()} {
		if strings.Count(said, "set aside: ") != 1 || !strings.Contains(said, `unknown field "foo"`) {
			t.Errorf("%s says %q", who, said)
		}
	}
}
