// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods come and go through the API server as they do without one, and nothing of them stays in it.
func TestLabChangesPodsThroughTheAPIServer(t *testing.T) {
	p := NewPipeline(t)
	shop, err := os.ReadFile("../../internal/lab/shop/shop.yaml")
	fatal(t, err)
	for _, replicas := range []string{"5", "1"} {
		file := filepath.Join(t.TempDir(), "shop.yaml")
		fatal(t, os.WriteFile(file, []byte(strings.Replace(string(shop), "replicas: 3", "replicas: "+replicas, 1)), 0o644))
		apply := exec.CommandContext(t.Context(), binary(t, "deltaplane"), "lab", "apply", "--name="+p.name, "--file="+file)
		if out, err := apply.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", apply, err, out)
		}
		p.everywhere(t, "shop/web:80", "tcp", "ok")
		pods, err := p.Client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		fatal(t, err)
		if got := len(pods.Items); got != int(replicas[0]-'0') {
			t.Errorf("%d pods of web are in the API server, want %s", got, replicas)
		}
	}
}
