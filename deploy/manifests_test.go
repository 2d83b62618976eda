// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// workload is what a Deployment and a DaemonSet have in common.
type workload struct {
	metav1.ObjectMeta
	selector *metav1.LabelSelector
	pod      corev1.PodSpec
}

// workloads reads all Deployments and DaemonSets, refusing fields that they don't have.
func workloads(t *testing.T) (all []workload, budgets map[string]bool) {
	t.Helper()
	budgets = map[string]bool{}
	for _, path := range []string{"manifests/watcher.yaml", "manifests/compiler.yaml", "manifests/programmer.yaml", "nats/daemonset.yaml"} {
		for _, document := range documents(t, path) {
			var kind metav1.TypeMeta
			decode(t, path, document, &kind, false)
			switch kind.Kind {
			case "Deployment":
				var d appsv1.Deployment
				decode(t, path, document, &d, true)
				all = append(all, workload{d.ObjectMeta, d.Spec.Selector, d.Spec.Template.Spec})
			case "DaemonSet":
				var d appsv1.DaemonSet
				decode(t, path, document, &d, true)
				all = append(all, workload{d.ObjectMeta, d.Spec.Selector, d.Spec.Template.Spec})
			case "PodDisruptionBudget":
				var b policyv1.PodDisruptionBudget
				decode(t, path, document, &b, true)
				budgets[b.Name] = true
			default:
				t.Errorf("%s: kind %q is not expected here", path, kind.Kind)
			}
		}
	}
	if len(all) != 4 {
		t.Fatalf("%d workloads, want 4", len(all))
	}
	return all, budgets
}

func TestOnlyTheWatcherHasAToken(t *testing.T) {
	all, _ := workloads(t)
	for _, w := range all {
		token := w.pod.AutomountServiceAccountToken == nil || *w.pod.AutomountServiceAccountToken
		if token != (w.Name == "watcher") {
			t.Errorf("%s: token %v", w.Name, token)
		}
	}
}

func TestContainersHaveNoMoreRightsThanTheyNeed(t *testing.T) {
	needed := map[string][]corev1.Capability{"programmer": {"BPF", "NET_ADMIN", "PERFMON"}}
	all, _ := workloads(t)
	for _, w := range all {
		for _, c := range w.pod.Containers {
			rights := c.SecurityContext
			if rights == nil || rights.Capabilities == nil {
				t.Fatalf("%s: no security context", w.Name)
			}
			want := &corev1.SecurityContext{
				Capabilities:             &corev1.Capabilities{Add: needed[w.Name], Drop: []corev1.Capability{"ALL"}},
				AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			}
			if w.Name == "programmer" {
				want.RunAsUser = new(int64(0))
			}
			if diff := cmp.Diff(want, rights); diff != "" {
				t.Errorf("%s: security context (-want +got):\n%s", w.Name, diff)
			}
		}
	}
}

// Whatever the pipeline carries must not be needed for the pipeline to start.
//
// Trap 45: nothing that the pipeline needs to start is reached by what it provides.
func TestPipelineNeedsNothingThatItProvides(t *testing.T) {
	all, budgets := workloads(t)
	for _, w := range all {
		if !w.pod.HostNetwork || w.pod.DNSPolicy != corev1.DNSDefault {
			t.Errorf("%s: in the pod network, or uses cluster DNS", w.Name)
		}
		if !strings.HasPrefix(w.pod.PriorityClassName, "system-") {
			t.Errorf("%s: priority class %q: it must not make room for what depends on it", w.Name, w.pod.PriorityClassName)
		}
		for _, v := range w.pod.Volumes {
			if v.PersistentVolumeClaim != nil {
				t.Errorf("%s: volume %s needs a claim", w.Name, v.Name)
			}
		}
		if w.Name != "programmer" && !budgets[w.Name] {
			t.Errorf("%s: no PodDisruptionBudget", w.Name)
		}
		for _, c := range w.pod.Containers {
			if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.Resources.Requests.Memory().IsZero() {
				t.Errorf("%s: container %s lacks a probe or a request", w.Name, c.Name)
			}
		}
	}
}

func documents(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^---$`).Split(string(text), -1)
}

func decode(t *testing.T, path, document string, into any, strict bool) {
	t.Helper()
	unmarshal := yaml.UnmarshalStrict
	if !strict {
		unmarshal = yaml.Unmarshal
	}
	if err := unmarshal([]byte(document), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
