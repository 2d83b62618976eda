// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestAlertsUseMetricsThatExist(t *testing.T) {
	var known strings.Builder
	pages, err := filepath.Glob("../docs/reference/metrics-*.md")
	if err != nil || len(pages) != 3 {
		t.Fatalf("pages of metrics: %v, %v", pages, err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		known.Write(text)
	}
	text, err := os.ReadFile("monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &rules); err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules.Groups[0].Rules {
		for _, name := range regexp.MustCompile(`deltaplane_\w+`).FindAllString(rule.Expr, -1) {
			if !strings.Contains(known.String(), "`"+name+"`") {
				t.Errorf("%s: no service has metric %s", rule.Alert, name)
			}
		}
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s doesn't say how bad it is or what to do", rule.Alert)
		}
	}
}

func TestPromtoolTakesTheAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; the rules' syntax goes unchecked")
	}
	if out, err := exec.Command(promtool, "check", "rules", "monitoring/alerts.yaml").CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
