// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/convert"
)

// scene is a lab whose packets are compared with what is explained about them.
type scene struct {
	*lab.Lab
	program string
	config  explain.Config
	raw     map[string]*agent.Client // clients that no socket hook sees, by pod

	current *manifest.Objects // of become
	post    *post

	world  *explain.World // of the cluster as it is; nil after a change
	kernel *explain.Kernel
}

// newScene brings up a lab of these objects that allows externalIPs of 192.0.2.0/24 and of 2001:db8:2::/48, with more
// flags for its programmers.
func newScene(t *testing.T, name, yaml string, programmerFlags ...string) *scene {
	t.Helper()
	testkit.NeedKernel(t)
	c := buildAll(t)
	l, err := lab.Up(t.Context(), decoded(t, yaml), lab.Options{
		Name: labName + "-" + name, Binaries: filepath.Dir(c.program), Agent: []string{c.program, "lab", "agent"},
		CompilerFlags: []string{"--allow-external-ips=192.0.2.0/24,2001:db8:2::/48"}, ProgrammerFlags: programmerFlags,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{Lab: l, program: c.program, raw: map[string]*agent.Client{}, config: explain.Config{
		AllowExternalIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:2::/48")},
	}}
	t.Cleanup(func() {
		if s.kernel != nil {
			s.kernel.Close()
		}
		for _, client := range s.raw {
			client.Close()
		}
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Converged(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// changed forgets what is explained: it was about the cluster before.
func (s *scene) changed() { s.world = nil }

// rawPod begins the name of a place that is a pod's namespace without its cgroup: its packets are all that is seen.
const rawPod = "raw "

// client returns the client of a place that isn't the lab's own, or nil.
func (s *scene) client(t testing.TB, from string) *agent.Client {
	t.Helper()
	pod, ok := strings.CutPrefix(from, rawPod)
	if !ok {
		return nil
	}
	if s.raw[pod] != nil {
		return s.raw[pod]
	}
	place, err := s.Place(pod)
	check(t, err)
	outside, err := s.Place("outside")
	check(t, err)
	s.raw[pod], err = agent.Start(exec.Command(s.program, "lab", "agent"), func(cmd *exec.Cmd) error {
		return space.Start(cmd, space.OpenNamespace(place.Namespace), space.OpenCgroup(outside.Cgroup))
	})
	check(t, err)
	return s.raw[pod]
}

// attempt is one question to one address, and what is to come of it.
type attempt struct {
	way
	target netip.AddrPort
}

// attempts spreads out what a way leaves open: protocols, and addresses of both families of what has both. Several
// are separated by spaces.
func (s *scene) attempts(t testing.TB, w way) (all []attempt) {
	t.Helper()
	protocols := strings.Fields(w.proto)
	if len(protocols) == 0 {
		protocols = []string{"tcp", "udp"}
	}
	for to := range strings.FieldsSeq(w.to) {
		targets := []netip.AddrPort{}
		if literal, err := netip.ParseAddrPort(to); err == nil {
			targets = append(targets, literal)
		} else {
			for _, family := range []int{4, 6} {
				target, err := s.Resolve(to, family)
				check(t, err)
				targets = append(targets, target)
			}
		}
		for _, target := range targets {
			for _, proto := range protocols {
				one := w
				one.to, one.proto = to, proto
				all = append(all, attempt{one, target})
			}
		}
	}
	return all
}

// expect dials each way from each of the places and compares what came of it with what was expected and with
// what both engines explain.
func (s *scene) expect(t *testing.T, places []string, ways ...way) {
	t.Helper()
	for _, a := range s.allAttempts(t, places, ways) {
		results, err := s.dial(t.Context(), a)
		check(t, err)
		s.verify(t, a, results)
	}
}

// expectAtOnce is expect with all dialled at once.
func (s *scene) expectAtOnce(t *testing.T, places []string, ways ...way) {
	t.Helper()
	attempts := s.allAttempts(t, places, ways)
	results, errs := make([][]agent.Result, len(attempts)), make([]error, len(attempts))
	var tasks sync.WaitGroup
	for i, a := range attempts {
		tasks.Go(func() { results[i], errs[i] = s.dial(t.Context(), a) })
	}
	tasks.Wait()
	check(t, errors.Join(errs...))
	for i, a := range attempts {
		s.verify(t, a, results[i])
	}
}

func (s *scene) allAttempts(t *testing.T, places []string, ways []way) (all []attempt) {
	t.Helper()
	for _, from := range places {
		s.client(t, from)
		for _, w := range ways {
			w.from = from
			all = append(all, s.attempts(t, w)...)
		}
	}
	return all
}

// verify compares what came of an attempt with what was to come of it and with what both engines explain.
func (s *scene) verify(t *testing.T, a attempt, results []agent.Result) {
	t.Helper()
	for _, r := range results {
		if r.Outcome != a.outcome || !strings.HasPrefix(r.Reached, a.reached) {
			t.Errorf("%s → %s %s by %s %q: got %+v, want %s %s", a.from, a.to, a.target, a.proto, a.via, r, a.outcome, a.reached)
		}
	}
	s.agrees(t, a, results)
}

// dial tries twice, but what is going to be dropped once, and not for long. The client of its place runs already.
func (s *scene) dial(ctx context.Context, a attempt) ([]agent.Result, error) {
	timeout, count := patience, 2
	if a.outcome == agent.Timeout {
		timeout, count = 100*time.Millisecond, 1
	}
	if pod, isRaw := strings.CutPrefix(a.from, rawPod); isRaw {
		return s.raw[pod].Probe(ctx, agent.Target{Protocol: a.proto, Address: a.target, Timeout: timeout}, count, 0)
	}
	report, err := s.Probe(ctx, lab.ProbeRequest{From: a.from, To: a.target.String(), Via: a.via, Protocol: a.proto, Count: count, Timeout: timeout})
	if err != nil {
		return nil, err
	}
	return report.Results, nil
}

// question is the same as an attempt, for explain.
func (s *scene) question(a attempt) explain.Question {
	q := explain.Question{From: a.from, To: a.target.String(), Proto: a.proto}
	if pod, ok := strings.CutPrefix(a.from, rawPod); ok {
		q.From, q.Via = pod, "packet"
	}
	if a.from != "outside" {
		return q
	}
	q.From, q.Node = s.addressOf("outside", a.target.Addr()).String(), "node-1"
	if node, ok := strings.CutPrefix(a.via, "node/"); ok {
		q.Node = node
	}
	for _, n := range s.Cluster().Nodes {
		if slices.Contains(manifest.NodeAddrs(n), a.target.Addr()) {
			q.Node = n.Name
		}
	}
	return q
}

// addressOf returns a place's first address of the family of another.
func (s *scene) addressOf(place string, like netip.Addr) netip.Addr {
	all := parseAddrs("172.30.255.1", "fd00:172:30::ffff:1")
	for _, p := range s.Cluster().Pods {
		if manifest.Name(p) == place {
			all = manifest.PodAddrs(p)
		}
	}
	for _, a := range all {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// agrees asks both engines what becomes of an attempt, and compares that with what came of it.
func (s *scene) agrees(t *testing.T, a attempt, results []agent.Result) {
	t.Helper()
	s.learn(t)
	q := s.question(a)
	model, err := s.world.Ask(explain.Model{}, q)
	check(t, err)
	kernel, err := s.world.Ask(s.kernel, q)
	check(t, err)
	if diff := cmp.Diff(model, kernel, cmpopts.IgnoreFields(explain.Answer{}, "Steps", "Evidence")); diff != "" {
		t.Errorf("%+v: the engines differ (-model +kernel):\n%s", q, diff)
	}
	for _, r := range results {
		if wrong := s.contradicts(a, model, r); wrong != "" {
			t.Errorf("%+v: got %+v, which is %s:\n  %s", q, r, wrong, strings.Join(model.Steps, "\n  "))
		}
	}
}

// contradicts says what in a result isn't as explained; empty if all is.
func (s *scene) contradicts(a attempt, said *explain.Answer, r agent.Result) string {
	of := map[string]agent.Outcome{"forward": agent.OK, "reject": agent.Refused, "drop": agent.Timeout}
	switch {
	case said.Verdict == "forward" && said.Service == nil:
		return "" // a packet of no service: what becomes of it is for others to say
	case r.Outcome != of[said.Verdict]:
		return "not what " + said.Verdict + " means"
	case r.Outcome != agent.OK:
		return ""
	}
	reached := s.addressOf(r.Reached, a.target.Addr())
	if !slices.ContainsFunc(said.Candidates, func(c string) bool { return netip.MustParseAddrPort(c).Addr() == reached }) {
		return "at " + reached.String() + ", which is no candidate"
	}
	client := s.addressOf(strings.TrimPrefix(a.from, rawPod), a.target.Addr())
	kept := r.ClientAddress == client.String()
	switch host := strings.HasPrefix(a.from, "node/") || strings.HasSuffix(a.from, "/agent"); {
	case host: // the kernel chooses among the node's addresses
	case said.ClientAddressKept && !kept:
		return "not from the client's address"
	case said.Masquerade && kept && len(said.Candidates) == 1:
		return "from the client's address"
	}
	return ""
}

// learn makes what is explained from the cluster as it is published.
func (s *scene) learn(t *testing.T) {
	t.Helper()
	if s.world != nil {
		return
	}
	cluster := s.Cluster()
	var facts []*schemas.Fact
	for object := range cluster.Watched() {
		fact, err := convert.Fact(object)
		check(t, err)
		facts = append(facts, fact)
	}
	if fact := convert.Cluster(cluster.ServiceCIDRs); fact != nil {
		facts = append(facts, fact)
	}
	var err error
	s.world, _, err = explain.FromFacts(facts, s.config)
	check(t, err)
	if s.kernel == nil {
		s.kernel, err = explain.NewKernel(s.world)
		check(t, err)
	}
}
