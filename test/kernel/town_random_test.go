// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/explain"
)

// whim makes policies of the words of a town.
type whim struct{ *rand.Rand }

func (w whim) of(words ...string) string { return words[w.IntN(len(words))] }

// some joins up to most of what make makes, and at least one.
func (w whim) some(most int, makes func() string) string {
	all := make([]string, 1+w.IntN(most))
	for i := range all {
		all[i] = makes()
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// selector fits some pods or namespaces by one label.
func (w whim) selector(label string, values []string) string {
	one, other := w.of(values...), w.of(values...)
	return w.of("{}", "{matchLabels: {"+label+": "+one+"}}", "{matchLabels: {"+label+": "+one+"}}",
		fmt.Sprintf("{matchExpressions: [{key: %s, operator: %s, values: [%s, %s]}]}", label, w.of("In", "NotIn"), one, other),
		"{matchExpressions: [{key: "+w.of(label, "team")+", operator: "+w.of("Exists", "DoesNotExist")+"}]}")
}

func (w whim) namespaces() string { return w.selector("ns", townNamespaces) }

func (w whim) pods() string { return w.selector("pod", townPods) }

// address is a pod's, or a network of some pods.
func (w whim) address() string {
	pod := w.of(townNames()...)
	return w.of("IP4["+pod+"]/32", `"IP6[`+pod+`]/128"`, "IP4["+pod+"]/30", `"IP6[`+pod+`]/126"`, "10.244.1.0/24", `"fd00:10:244:2::/64"`)
}

// block is one of a NetworkPolicy.
func (w whim) block() string {
	pod := w.of(townNames()...)
	return w.of("{cidr: "+w.address()+"}", "{cidr: 0.0.0.0/0}", `{cidr: "::/0"}`, "{cidr: 10.244.0.0/16, except: [10.244.2.0/24]}",
		"{cidr: 0.0.0.0/0, except: [IP4["+pod+"]/32]}", `{cidr: "::/0", except: ["IP6[`+pod+`]/128"]}`)
}

func (w whim) peer() string {
	return w.of("{podSelector: "+w.pods()+"}", "{namespaceSelector: "+w.namespaces()+"}",
		"{namespaceSelector: "+w.namespaces()+", podSelector: "+w.pods()+"}", "{ipBlock: "+w.block()+"}")
}

func (w whim) port() string {
	proto := w.of("TCP", "UDP", "SCTP")
	return w.of("{protocol: "+proto+"}", "{protocol: "+proto+", port: 80}", "{protocol: "+proto+", port: 81}", "{protocol: "+proto+", port: 1, endPort: 80}",
		"{protocol: TCP, port: serve-80-tcp}", "{protocol: UDP, port: serve-81-udp}", "{protocol: "+proto+", port: serve-99}")
}

// rule is one of a NetworkPolicy, whose peers have this name.
func (w whim) rule(peers string) string {
	var fields []string
	if w.IntN(4) > 0 {
		fields = append(fields, peers+": "+w.some(3, w.peer))
	}
	if w.IntN(2) > 0 {
		fields = append(fields, "ports: "+w.some(3, w.port))
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

func (w whim) networkPolicy(name string) string {
	spec := "podSelector: " + w.pods() + ", policyTypes: " + w.of("[Ingress]", "[Egress]", "[Ingress, Egress]")
	if w.IntN(5) > 0 {
		spec += ", ingress: " + w.some(3, func() string { return w.rule("from") })
	}
	if w.IntN(5) > 0 {
		spec += ", egress: " + w.some(3, func() string { return w.rule("to") })
	}
	return policy(w.of(townNamespaces...), name, spec)
}

// subject is also a peer of ClusterNetworkPolicies.
func (w whim) subject() string {
	return w.of("{namespaces: "+w.namespaces()+"}", "{pods: {namespaceSelector: "+w.namespaces()+", podSelector: "+w.pods()+"}}")
}

func (w whim) protocol() string {
	port := w.of("{number: 80}", "{number: 81}", "{range: {start: 1, end: 80}}", "{range: {start: 81, end: 65535}}")
	return w.of("{"+w.of("tcp", "udp", "sctp")+": {destinationPort: "+port+"}}", "{destinationNamedPort: "+w.of("serve-80-udp", "serve-81-tcp", "serve-99")+"}")
}

func (w whim) tierRule(peers string) string {
	peer := w.subject
	if peers == "to" && w.IntN(3) == 0 {
		peer = func() string { return "{networks: [" + w.address() + ", " + w.address() + "]}" }
	}
	rule := "{action: " + w.of("Accept", "Deny", "Pass") + ", " + peers + ": " + w.some(2, peer)
	if w.IntN(2) > 0 && !strings.Contains(rule, "networks") {
		rule += ", protocols: " + w.some(2, w.protocol)
	}
	return rule + "}"
}

func (w whim) clusterPolicy(name string) string {
	spec := "subject: " + w.subject()
	if w.IntN(3) > 0 {
		spec += ", ingress: " + w.some(4, func() string { return w.tierRule("from") })
	}
	if w.IntN(3) > 0 {
		spec += ", egress: " + w.some(4, func() string { return w.tierRule("to") })
	}
	return tier(name, w.of("Admin", "Baseline"), w.IntN(4), spec)
}

// objects are policies of one round.
func (w whim) objects() string {
	var all strings.Builder
	for i := range 1 + w.IntN(5) {
		all.WriteString(w.networkPolicy(fmt.Sprintf("n%d", i)))
	}
	for i := range w.IntN(4) {
		all.WriteString(w.clusterPolicy(fmt.Sprintf("c%d", i)))
	}
	return all.String()
}

// Whatever policies say, packets fare as is explained, with either engine.
//
// Policy row 1: random NetworkPolicies decide as the model of their specification does, for each pair of pods, port, protocol
// and family.
// Policy row 5: as do random ClusterNetworkPolicies beside them.
func TestRandomPoliciesInATown(t *testing.T) {
	t.Parallel()
	seed := anySeed(t)
	s := newScene(t, "random", townYAML())
	for round := range uint64(12) {
		t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) {
			w := whim{rand.New(rand.NewPCG(seed, round))}
			objects := w.objects()
			s.become(t, objects)
			s.learn(t)
			expected, denied := map[call]bool{}, 0
			for _, c := range townCalls() {
				switch said := s.explained(t, c); said {
				case "": // it isn't asked about pings
				case "forward":
					expected[c] = true
				default:
					expected[c] = false
					denied++
				}
			}
			s.compare(t, expected, s.engines(t, w, 20))
			t.Logf("%d of %d denied", denied, len(expected))
			if t.Failed() {
				t.Log(s.addressed(objects))
			}
		})
	}
}

// engines asks the kernel engine about a few calls, and says where it differs from the model.
func (s *scene) engines(t *testing.T, w whim, count int) (wrong []string) {
	t.Helper()
	calls := townCalls()
	for range count {
		c := calls[w.IntN(len(calls))]
		if c.proto == "ping" {
			continue
		}
		target, err := s.Resolve(fmt.Sprintf("%s:%d", c.to, c.port), c.family)
		check(t, err)
		q := s.question(attempt{way{from: c.from, to: target.String(), proto: c.proto}, target})
		model, err := s.world.Ask(explain.Model{}, q)
		check(t, err)
		kernel, err := s.world.Ask(s.kernel, q)
		check(t, err)
		if diff := cmp.Diff(model, kernel, cmpopts.IgnoreFields(explain.Answer{}, "Steps", "Evidence")); diff != "" {
			wrong = append(wrong, fmt.Sprintf("%s: the engines differ (-model +kernel):\n%s", c, diff))
		}
	}
	return wrong
}
