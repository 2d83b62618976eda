// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// A town has namespaces x, w and z (label ns) with pods a, b and c each (label pod), on two nodes and of both families.
// Each pod serves ports 80 and 81 over TCP and UDP, by the names serve-80-tcp and so on.
var (
	townNamespaces = []string{"x", "w", "z"}
	townPods       = []string{"a", "b", "c"}
	townPorts      = []int{80, 81}
)

func townYAML() string {
	var b strings.Builder
	b.WriteString("{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {rack: front}}}\n---\n" +
		"{apiVersion: v1, kind: Node, metadata: {name: node-2, labels: {rack: back}}}\n---\n")
	for i, ns := range townNamespaces {
		fmt.Fprintf(&b, "{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {ns: %s}}}\n---\n", ns, ns)
		for j, pod := range townPods {
			b.WriteString(townPod(ns, pod, fmt.Sprintf("node-%d", 1+(i+j)%2)))
		}
	}
	return b.String()
}

func townPod(ns, pod, node string) string {
	var ports []string
	for _, port := range townPorts {
		for _, proto := range []string{"TCP", "UDP"} {
			ports = append(ports, fmt.Sprintf("{containerPort: %d, protocol: %s, name: serve-%d-%s}", port, proto, port, strings.ToLower(proto)))
		}
	}
	return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: %s, labels: {pod: %s}}, spec: {nodeName: %s, containers: [{name: main, ports: [%s]}]}}\n---\n",
		pod, ns, pod, node, strings.Join(ports, ", "))
}

// call is one connection that a matrix tries.
type call struct {
	from, to string // NS/POD, node/NAME or outside
	port     int
	proto    string
	family   int
}

func (c call) String() string {
	return fmt.Sprintf("%s → %s:%d/%s IPv%d", c.from, c.to, c.port, c.proto, c.family)
}

// townCalls are all connections among the pods of a town.
func townCalls() (all []call) {
	for _, from := range townNames() {
		for _, to := range townNames() {
			all = append(all, callsOf(from, to)...)
		}
	}
	return all
}

// callsOf are those from one place to one pod.
func callsOf(from, to string) (all []call) {
	for _, port := range townPorts {
		for _, proto := range []string{"tcp", "udp"} {
			for _, family := range []int{4, 6} {
				all = append(all, call{from, to, port, proto, family})
			}
		}
	}
	return all
}

func townNames() (all []string) {
	for _, ns := range townNamespaces {
		for _, pod := range townPods {
			all = append(all, ns+"/"+pod)
		}
	}
	return all
}

// outlook says which calls pass: all, but for what its lines say, of which the last that fits counts. A line is
// "no FROM → TO" or "yes FROM → TO", with patterns such as x/* for both, and a port and protocol behind TO such as
// :80, :80/tcp or :*/udp, and 4 or 6 behind that for one family: "no x/* → w/a:80/tcp 6".
type outlook []string

func (o outlook) allows(t testing.TB, c call) bool {
	t.Helper()
	passes := true
	for _, line := range o {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[2] != "→" || fields[0] != "no" && fields[0] != "yes" {
			t.Fatalf("line %q: want no|yes FROM → TO[:PORT[/PROTO]] [FAMILY]", line)
		}
		to, rest, _ := strings.Cut(fields[3], ":")
		port, proto, _ := strings.Cut(rest, "/")
		fits := fitting(t, fields[1], c.from) && fitting(t, to, c.to) && fitting(t, port, fmt.Sprint(c.port)) && fitting(t, proto, c.proto) &&
			(len(fields) < 5 || fields[4] == fmt.Sprint(c.family))
		if fits {
			passes = fields[0] == "yes"
		}
	}
	return passes || c.from == c.to
}

func fitting(t testing.TB, pattern, text string) bool {
	t.Helper()
	fits, err := path.Match(pattern, text)
	check(t, err)
	return fits || pattern == "" || pattern == "*"
}

// sees tries all calls at once and compares what comes of them with the outlook, and with what the model explains.
func (s *scene) sees(t *testing.T, o outlook, calls []call) {
	t.Helper()
	s.learn(t)
	var (
		tasks sync.WaitGroup
		mu    sync.Mutex
		wrong []string
	)
	limit := make(chan struct{}, 96)
	for _, c := range calls {
		expected := o.allows(t, c)
		if said := s.explained(t, c); said != "" && (said == "forward") != expected {
			wrong = append(wrong, fmt.Sprintf("%s: explained as %s, expected %t", c, said, expected))
		}
		tasks.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if outcome, text := s.call(t.Context(), c, expected); (outcome == agent.OK) != expected {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, fmt.Sprintf("%s: %s (%s), expected %t", c, outcome, text, expected))
			}
		})
	}
	tasks.Wait()
	if len(wrong) > 0 {
		t.Errorf("%d of %d calls went wrong:\n%s", len(wrong), len(calls), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
}

// call makes one, which has long if it is to pass and not if it isn't.
func (s *scene) call(ctx context.Context, c call, expected bool) (agent.Outcome, string) {
	timeout := 300 * time.Millisecond
	if expected {
		timeout = 5 * time.Second
	}
	to := fmt.Sprintf("%s:%d", c.to, c.port)
	report, err := s.Probe(ctx, lab.ProbeRequest{From: c.from, To: to, Protocol: c.proto, Family: c.family, Timeout: timeout})
	if err != nil {
		return "", err.Error()
	}
	return report.Results[0].Outcome, report.Results[0].Error
}

// explained is the model's verdict; empty for what it isn't asked about.
func (s *scene) explained(t testing.TB, c call) string {
	t.Helper()
	target, err := s.Resolve(fmt.Sprintf("%s:%d", c.to, c.port), c.family)
	check(t, err)
	answer, err := s.world.Ask(explain.Model{}, s.question(attempt{way{from: c.from, to: target.String(), proto: c.proto}, target}))
	check(t, err)
	return answer.Verdict
}

// situation is a set of objects in a town, and what passes while they are there.
type situation struct {
	name    string
	objects string // may name addresses: IP4[x/a], IP6[x/a]
	outlook outlook
}

// shows brings each situation about in turn, taking the one before away, and sees it.
func (s *scene) shows(t *testing.T, calls []call, situations ...situation) {
	t.Helper()
	for _, one := range situations {
		t.Run(one.name, func(t *testing.T) {
			objects := decoded(t, s.addressed(one.objects))
			s.changed()
			check(t, s.Apply(t.Context(), objects))
			s.sees(t, one.outlook, calls)
			s.changed()
			check(t, s.Delete(context.WithoutCancel(t.Context()), objects))
		})
	}
}

// addressed puts pods' addresses in place of IP4[x/a] and IP6[x/a].
func (s *scene) addressed(text string) string {
	var pairs []string
	for _, p := range s.Cluster().Pods {
		for _, addr := range manifest.PodAddrs(p) {
			family := 4
			if addr.Is6() {
				family = 6
			}
			pairs = append(pairs, fmt.Sprintf("IP%d[%s]", family, manifest.Name(p)), addr.String())
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// policy is a NetworkPolicy in one line of YAML.
func policy(namespace, name, spec string) string {
	return fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: %s}, spec: {%s}}\n---\n", name, namespace, spec)
}
