// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

// callsTo are those of all pods of a town to some of them, and of some more places.
func callsTo(to []string, more ...string) (all []call) {
	for _, one := range to {
		for _, from := range append(townNames(), more...) {
			all = append(all, callsOf(from, one)...)
		}
	}
	return all
}

// dressed is a pod of a town with other labels.
func dressed(ns, pod, node, labels string) string {
	return strings.Replace(townPod(ns, pod, node), "labels: {pod: "+pod+"}", "labels: {"+labels+"}", 1)
}

func namespace(name, labels string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}\n---\n", name, labels)
}

// Policy row 8: policies that come, change and go, and pods and namespaces that get other labels, are seen by all pods at
// once when the change is live.
// Policy row 7: a policy that comes tightens, one that goes loosens.
func TestPoliciesFollowChanges(t *testing.T) {
	t.Parallel()
	s := newScene(t, "changes", townYAML())
	toA := callsTo([]string{"x/a"})
	steps := []struct{ name, apply, remove, more string }{
		{name: "allowed by label", apply: policy("x", "p", podA+", ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]"), more: "no * → x/a; yes x/b → x/a"},
		{name: "the policy allows another", apply: policy("x", "p", podA+", ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}]}]"), more: "no * → x/a; yes x/c → x/a"},
		{name: "a pod gets the label", apply: dressed("x", "b", "node-2", "pod: c"), more: "no * → x/a; yes x/c → x/a; yes x/b → x/a"},
		{name: "and loses it", apply: townPod("x", "b", "node-2"), more: "no * → x/a; yes x/c → x/a"},
		{name: "the policy allows a namespace", apply: policy("x", "p", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]"), more: "no * → x/a"},
		{name: "a namespace gets the label", apply: namespace("w", "ns: w, team: red"), more: "no * → x/a; yes w/* → x/a"},
		{name: "and loses it again", apply: namespace("w", "ns: w"), more: "no * → x/a"},
		{name: "the pod is selected no more", apply: dressed("x", "a", "node-1", "pod: free")},
		{name: "and is again", apply: townPod("x", "a", "node-1"), more: "no * → x/a"},
		{name: "a second policy allows more", apply: policy("x", "q", podA+", ingress: [{ports: [{port: 80}]}]"), more: "no * → x/a; yes * → x/a:80/tcp"},
		{name: "the second policy goes", remove: policy("x", "q", ""), more: "no * → x/a"},
		{name: "the first policy goes", remove: policy("x", "p", "")},
		{name: "a tier denies", apply: tier("t", "Admin", 10, inX+", ingress: [{action: Deny, from: "+everyNS+"}]"), more: "no * → x/a"},
		{name: "and passes what another tier accepts", apply: tier("t", "Admin", 10, inX+", ingress: [{action: Pass, from: "+everyNS+"}]") +
			tier("d", "Baseline", 10, inX+", ingress: [{action: Accept, from: "+fromW+"}, {action: Deny, from: "+everyNS+"}]"), more: "no * → x/a; yes w/* → x/a"},
		{name: "a policy of a lower number comes before it", apply: tier("u", "Admin", 9, inX+", ingress: [{action: Deny, from: "+fromW+"}, {action: Accept, from: "+fromZ+"}]"), more: "no * → x/a; yes z/* → x/a"},
		{name: "until its number is higher", apply: tier("u", "Admin", 11, inX+", ingress: [{action: Deny, from: "+fromW+"}, {action: Accept, from: "+fromZ+"}]") +
			tier("t", "Admin", 10, inX+", ingress: [{action: Accept, from: "+fromW+"}]"), more: "no * → x/a; yes w/* → x/a; yes z/* → x/a"},
		{name: "the tier's subject is another", apply: tier("d", "Baseline", 10, "subject: {namespaces: {matchLabels: {ns: w}}}, ingress: [{action: Deny, from: "+everyNS+"}]")},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			s.changed()
			check(t, s.Exchange(t.Context(), decoded(t, step.remove), decoded(t, step.apply)))
			var o outlook
			for line := range strings.SplitSeq(step.more, "; ") {
				if line != "" {
					o = append(o, line)
				}
			}
			s.sees(t, o, toA)
		})
	}
}

// Policy row 4: the kubelet of a pod's own node reaches it whatever policies say, and a pod reaches itself.
// Policy row 6: pods of the host's network are not selected; nodes and the world are addresses, which blocks match.
func TestPoliciesAndWhoIsNoPod(t *testing.T) {
	t.Parallel()
	s := newScene(t, "who", townYAML())
	calls := callsTo([]string{"x/a", "x/b"}, "node/node-1", "node/node-2", "outside")
	own := outlook{"yes node/node-1 → x/a", "yes node/node-2 → x/b"}
	s.shows(t, calls,
		situation{"closed to all but the own node", policy("x", "deny", everyPod+", "+inward), append(outlook{"no * → x/*"}, own...)},
		situation{
			"closed to all but the own node, by a tier", tier("deny", "Admin", 1, inX+", ingress: [{action: Deny, from: "+everyNS+"}]"),
			append(outlook{"no x/* → x/*", "no w/* → x/*", "no z/* → x/*"}, own...),
		},
		situation{
			"every pod is no node and no one outside", policy("x", "pods", everyPod+", ingress: [{from: [{namespaceSelector: {}}]}]"),
			append(outlook{"no node/* → x/*", "no outside → x/*"}, own...),
		},
		situation{
			"the whole of IPv4", policy("x", "world", everyPod+", ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]"),
			append(outlook{"no * → x/*:*/* 6"}, own...),
		},
	)
}

// given is a pod of a town with addresses of its own choice.
func given(ns, pod, node string, addrs ...netip.Addr) string {
	var ips []string
	for _, addr := range addrs {
		ips = append(ips, fmt.Sprintf("{ip: %q}", addr))
	}
	return strings.Replace(townPod(ns, pod, node), "spec: {", fmt.Sprintf("status: {podIPs: [%s]}, spec: {", strings.Join(ips, ", ")), 1)
}

// Policies are there before their pods and namespaces are, and pods come again under their names elsewhere, or get the
// addresses of others.
//
// Policy row 7: a pod that comes is under the policies that were there before it, and one that leaves leaves nothing to who
// gets its address.
// Policy row 8: what a label says of a pod holds at whatever address it comes again.
func TestPoliciesWaitForPods(t *testing.T) {
	t.Parallel()
	s := newScene(t, "empty", townNodes+
		policy("x", "deny", everyPod+", "+bothWays)+policy("x", "b", podA+", ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}]}]")+
		tier("out", "Admin", 10, "subject: {namespaces: {matchLabels: {ns: z}}}, egress: [{action: Deny, to: "+fromW+"}]"))
	pods := []string{"x/a", "w/b", "z/c"}
	var calls []call
	for _, from := range pods {
		for _, to := range pods {
			calls = append(calls, callsOf(from, to)...)
		}
	}
	seen := outlook{"no x/* → *", "no * → x/*", "yes w/b → x/a", "no z/* → w/*"}
	step := func(name, yaml string, o outlook) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			for _, pod := range pods {
				s.forget(pod)
			}
			if yaml != "" {
				s.apply(t, yaml)
			}
			s.sees(t, o, calls)
		})
	}
	step("they come", namespace("x", "ns: x")+namespace("w", "ns: w")+namespace("z", "ns: z")+
		townPod("x", "a", "node-1")+townPod("w", "b", "node-2")+townPod("z", "c", "node-1"), seen)
	old := s.addressesOf("w/b")
	step("a peer comes again on another node", townPod("w", "b", "node-1"), seen)
	if slices.Equal(old, s.addressesOf("w/b")) {
		t.Error("w/b has its addresses still")
	}
	step("the subject comes again on another node", townPod("x", "a", "node-2"), seen)
	t.Run("another gets a peer's addresses", func(t *testing.T) {
		old := s.addressesOf("w/b")
		s.forget("w/b")
		s.changed()
		check(t, s.Exchange(t.Context(), decoded(t, townPod("w", "b", "node-1")), &manifest.Objects{}))
		s.forget("z/c")
		s.apply(t, given("z", "c", "node-1", old...))
		calls := append(callsOf("z/c", "x/a"), callsOf("x/a", "z/c")...)
		s.sees(t, outlook{"no * → *"}, calls)
	})
	step("and the peer comes back", townPod("w", "b", "node-2"), seen)
}

// addressesOf are those of a pod as it is now.
func (s *scene) addressesOf(pod string) []netip.Addr {
	for _, p := range s.Cluster().Pods {
		if manifest.Name(p) == pod {
			return manifest.PodAddrs(p)
		}
	}
	return nil
}

// forget lets go of a place that is about to come again as another.
func (s *scene) forget(place string) {
	if s.post != nil {
		s.post.close(place)
	}
}
