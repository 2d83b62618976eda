// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// composed is the project of docker-compose.yml on copies of the folders that it mounts.
type composed struct {
	command []string
	folder  string
}

// Editing a file must show as a change at a subscriber. It takes the images that `make images` builds, tagged
// "unversioned"; the programmer comes along where Docker knows the capabilities that it needs.
func TestEditedFileFlowsThroughCompose(t *testing.T) {
	c := newComposed(t)
	services := []string{"nats", "watcher", "compiler", "audit-subscriber"}
	if knowsCapBPF(t) {
		services = append(services, "programmer")
	}
	c.run(t, append([]string{"up", "--detach"}, services...)...)
	c.waitFor(t, "because Service shop/cart was changed")

	objects := filepath.Join(c.folder, "deploy/compose/objects/shop.yaml")
	text, err := os.ReadFile(objects)
	if err != nil {
		t.Fatal(err)
	}
	edited := bytes.ReplaceAll(text, []byte("10.244.0.11"), []byte("10.244.0.99"))
	if err := os.WriteFile(objects, edited, 0o644); err != nil {
		t.Fatal(err)
	}
	c.waitFor(t, "10.244.0.99:8080")
	if len(services) > 4 {
		c.waitFor(t, "node-a applied cluster revision 2")
	}
}

func newComposed(t *testing.T) *composed {
	t.Helper()
	c := &composed{folder: t.TempDir(), command: []string{"docker", "compose"}}
	if exec.Command("docker", "compose", "version").Run() != nil {
		c.command = []string{"docker-compose"}
	}
	if _, err := exec.LookPath(c.command[0]); err != nil {
		t.Skip("Docker Compose is not installed")
	}
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		t.Skipf("no Docker daemon answers: %s", bytes.TrimSpace(out))
	}
	if exec.Command("docker", "image", "inspect", "deltaplane/watcher:unversioned").Run() != nil {
		t.Skip("the images are not built: make images VERSION=unversioned")
	}
	for _, folder := range []string{"deploy/nats", "deploy/compose"} {
		if err := os.CopyFS(filepath.Join(c.folder, folder), os.DirFS("../"+folder)); err != nil {
			t.Fatal(err)
		}
	}
	c.command = append(c.command, "--file", "../docker-compose.yml", "--project-directory", c.folder, "--project-name", "deltaplane-test")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs:\n%s", c.logs(t))
		}
		c.run(t, "down", "--volumes", "--timeout", "2")
	})
	return c
}

func (c *composed) run(t *testing.T, args ...string) []byte {
	t.Helper()
	command := exec.Command(c.command[0], append(c.command[1:], args...)...)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func (c *composed) logs(t *testing.T) []byte {
	t.Helper()
	return c.run(t, "logs", "--no-color")
}

func (c *composed) waitFor(t *testing.T, text string) {
	t.Helper()
	testkit.Eventually(t, time.Minute, func() bool { return bytes.Contains(c.logs(t), []byte(text)) })
}

// knowsCapBPF says whether the daemon can give CAP_BPF: Docker can since 23.
func knowsCapBPF(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").Output()
	if err != nil {
		t.Fatalf("docker version: %v", err)
	}
	major, _, _ := strings.Cut(string(out), ".")
	number, err := strconv.Atoi(major)
	return err == nil && number >= 23
}
