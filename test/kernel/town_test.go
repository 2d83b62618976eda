// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"path"
	"slices"
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

const townNodes = "{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {rack: front}}}\n---\n" +
	"{apiVersion: v1, kind: Node, metadata: {name: node-2, labels: {rack: back}}}\n---\n"

func townYAML() string {
	var b strings.Builder
	b.WriteString(townNodes)
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

// callsOf are those from one place to one pod, by all protocols and in both families.
func callsOf(from, to string) (all []call) {
	for _, family := range []int{4, 6} {
		all = append(all, call{from, to, 0, "ping", family})
		for _, port := range townPorts {
			for _, proto := range []string{"tcp", "udp", "sctp"} {
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
	var wrong []string
	expected := map[call]bool{}
	for _, c := range calls {
		expected[c] = o.allows(t, c)
		if said := s.explained(t, c); said != "" && (said == "forward") != expected[c] {
			wrong = append(wrong, fmt.Sprintf("%s: explained as %s, expected %t", c, said, expected[c]))
		}
	}
	s.compare(t, expected, wrong)
}

// compare tries all calls at once; wrong is what is wrong with them already.
func (s *scene) compare(t *testing.T, expected map[call]bool, wrong []string) {
	t.Helper()
	if s.post == nil {
		s.post = newPost(t)
	}
	var (
		tasks  sync.WaitGroup
		mu     sync.Mutex
		tokens = map[uint32]call{}
	)
	limit := make(chan struct{}, 96)
	for c, passes := range expected {
		if c.isPost() {
			token, err := s.post.send(s, c)
			check(t, err)
			tokens[token] = c
			continue
		}
		tasks.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if outcome, text := s.call(t.Context(), c, passes); (outcome == agent.OK) != passes {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, fmt.Sprintf("%s: %s (%s), expected %t", c, outcome, text, passes))
			}
		})
	}
	tasks.Wait() // takes longer than a packet does that shouldn't arrive
	for c, arrived := range s.post.heardOf(tokens, func(c call) bool { return expected[c] }) {
		if arrived != expected[c] {
			wrong = append(wrong, fmt.Sprintf("%s: arrived %t, expected %t", c, arrived, expected[c]))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		t.Errorf("%d mistakes in %d calls:\n%s", len(wrong), len(expected), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
}

// call makes one, which has long if it is to pass and not if it isn't.
func (s *scene) call(ctx context.Context, c call, expected bool) (agent.Outcome, string) {
	timeout := 300 * time.Millisecond
	if expected {
		timeout = patience
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
	if c.proto == "ping" {
		return ""
	}
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

// shows brings each situation about in turn, in one change with the end of the one before, and sees it.
func (s *scene) shows(t *testing.T, calls []call, situations ...situation) {
	t.Helper()
	for _, one := range situations {
		t.Run(one.name, func(t *testing.T) {
			s.become(t, one.objects)
			s.sees(t, one.outlook, calls)
		})
	}
}

// become puts objects in place of those of the call before.
func (s *scene) become(t *testing.T, yaml string) {
	t.Helper()
	old := s.current
	if old == nil {
		old = &manifest.Objects{}
	}
	s.current = decoded(t, s.addressed(yaml))
	s.changed()
	check(t, s.Exchange(t.Context(), old, s.current))
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
