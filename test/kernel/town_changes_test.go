// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"strings"
	"testing"
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
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			if step.apply != "" {
				s.apply(t, step.apply)
			}
			if step.remove != "" {
				s.changed()
				check(t, s.Delete(t.Context(), decoded(t, step.remove)))
			}
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
