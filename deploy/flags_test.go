// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// compose is what these tests read of docker-compose.yml.
type compose struct {
	Services map[string]struct {
		Image       string
		Command     []string
		CapAdd      []string `json:"cap_add"`
		CapDrop     []string `json:"cap_drop"`
		Privileged  bool
		Healthcheck *struct{ Test []string }
	}
}

func composeFile(t *testing.T) compose {
	t.Helper()
	text, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatalf("docker-compose.yml: %v", err)
	}
	return c
}

// A flag that a service doesn't have would keep it from starting: each service is asked.
func TestServicesKnowTheFlagsTheyAreGiven(t *testing.T) {
	bin, err := testkit.Build()
	t.Cleanup(func() { _ = os.RemoveAll(bin) })
	if err != nil {
		t.Fatal(err)
	}
	ask := func(where, service string, args []string) {
		t.Helper()
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "$(NODE_NAME)", "node-a")
		}
		out, err := exec.Command(filepath.Join(bin, service), append(args, "--print-config")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s gives %s %v, which says: %v\n%s", where, service, args, err, out)
		}
	}
	all, _ := workloads(t)
	for _, w := range all {
		if w.Name != "nats" {
			ask("deploy/manifests", w.Name, w.pod.Containers[0].Args)
		}
	}
	for name, service := range composeFile(t).Services {
		if name == "watcher" || name == "compiler" || name == "programmer" {
			ask("docker-compose.yml", name, service.Command)
		}
	}
}

func TestComposeGivesTheRightsThatManifestsGive(t *testing.T) {
	for name, service := range composeFile(t).Services {
		want := map[string]string{"programmer": "BPF NET_ADMIN PERFMON"}[name]
		if got := strings.Join(service.CapAdd, " "); got != want {
			t.Errorf("%s: capabilities %q, want %q", name, got, want)
		}
		if service.Privileged || name != "nats" && strings.Join(service.CapDrop, " ") != "ALL" {
			t.Errorf("%s keeps rights that it doesn't need", name)
		}
		checked := name != "audit-subscriber" && name != "deltaplane" && name != "trust"
		if checked && service.Healthcheck == nil {
			t.Errorf("%s has no health check", name)
		}
	}
}

// Every image that compose and the manifests name is a target of the Dockerfile, and the other way round.
func TestImagesAreBuilt(t *testing.T) {
	dockerfile, err := os.ReadFile("images/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for name, service := range composeFile(t).Services {
		image, own := strings.CutPrefix(service.Image, "deltaplane/")
		target, _, _ := strings.Cut(image, ":")
		if own && !strings.Contains(string(dockerfile), " AS "+target+"\n") {
			t.Errorf("%s uses %s, which the Dockerfile doesn't build", name, service.Image)
		}
	}
}
