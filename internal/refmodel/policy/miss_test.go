// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/schemas"
)

// Policy row 11: a denial names the rule that came nearest, and what it lacked.
func TestNearestMiss(t *testing.T) {
	more := np("more", "", &schemas.NetworkPolicy{IsolatesIngress: true, Ingress: []*schemas.PolicyRule{rule(podsOf("app=x tier=y"))}})
	for _, test := range []struct {
		name     string
		policies facts
		conn     string
		want     string // of the nearest policy: its name, rule and text
	}{
		{"a label", facts{ingress(rule(podsOf("app=gate")))}, toBack, "in[0] allows app=gate in namespace shop; this pod has app=front"},
		{"several labels", facts{ingress(rule(podsOf("app=gate has:tier")))}, toBack, "in[0] allows app=gate, label tier in namespace shop; this pod has app=front and this pod has no label tier"},
		{"the namespace", facts{ingress(rule(podsOf("app=gate")))}, fromWeb, "in[0] allows app=gate in namespace shop; this pod is in namespace web"},
		{"the namespace by name", facts{ingress(rule(podsIn("kubernetes.io/metadata.name=shop", "")))}, fromWeb, "in[0] allows pods in namespace shop; this pod is in namespace web"},
		{"the namespace by labels", facts{ingress(rule(podsIn("team=a|b", "")))}, toBack, "in[0] allows pods in namespaces with team in (a, b); its namespace shop has team=shop"},
		{"no pod", facts{ingress(rule(podsIn("", "app!=x")))}, outside, "in[0] allows app!=x in any namespace; 192.0.2.7 is no pod's"},
		{"a port", facts{ingress(at(everyone, "8080/TCP"))}, toBack, "in[0] allows port 8080, not 9090"},
		{"ports", facts{ingress(at(everyone, "80-90/TCP", "443/TCP"))}, toBack, "in[0] allows ports 80-90 or port 443, not 9090"},
		{"a protocol", facts{ingress(at(everyone, "9090/UDP"))}, toBack, "in[0] allows port 9090/UDP, not 9090/TCP"},
		{"all of a protocol", facts{ingress(at(everyone, "/UDP"))}, toBack, "in[0] allows UDP, not 9090/TCP"},
		{"a name", facts{ingress(at(everyone, "http/TCP"))}, "10.0.1.1 > 10.0.1.2:80/TCP", "in[0] allows port http (9090 at shop/back), not 80"},
		{"a name that the pod hasn't", facts{ingress(at(everyone, "none/TCP"))}, toBack, "in[0] allows port none (none at shop/back), not 9090"},
		{"a name of a block", facts{egress(at(rule(block("0.0.0.0/0")), "http/TCP"))}, toBack, "out[0] allows port http of pods, not 9090"},
		{"no port at all", facts{ingress(at(everyone, "80/TCP"))}, "10.0.1.1 > 10.0.1.2:0/ICMP", "in[0] allows port 80/TCP, not protocol(1)"},
		{"a block", facts{ingress(rule(block("192.0.3.0/24")))}, outside, "in[0] allows 192.0.3.0/24; 192.0.2.7 is not in it"},
		{"an exception", facts{ingress(rule(block("192.0.0.0/16", "192.0.2.0/24")))}, outside, "in[0] allows 192.0.0.0/16 except 192.0.2.0/24; 192.0.2.7 is excepted"},
		{"peer and port", facts{ingress(at(rule(podsOf("app=gate")), "80/TCP"))}, toBack, "in[0] allows app=gate in namespace shop; this pod has app=front; and only port 80, not 9090"},
		{"the nearest of a policy's rules", facts{ingress(at(rule(podsOf("app=gate")), "80/TCP"), rule(podsOf("app=gate")))}, toBack, "in[1] allows app=gate in namespace shop; this pod has app=front"},
		{"the nearest of all policies", facts{more, ingress(rule(podsOf("app=gate")))}, toBack, "in[0] allows app=gate in namespace shop; this pod has app=front"},
		{"nodes", facts{np("out", "app=back", &schemas.NetworkPolicy{IsolatesEgress: true, Egress: []*schemas.PolicyRule{rule(nodesWith("role=db"))}})}, "10.0.1.2 > 172.20.0.1:80/TCP", "out[0] allows nodes with role=db; node a has role=worker"},
		{"without rules there is none", facts{ingress()}, toBack, ""},
		{"what is allowed has none", facts{ingress(rule(podsOf("app=gate")), everyone)}, toBack, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := cluster(test.policies...).Judge(connect(test.conn))
			var got []string
			for _, r := range []*Ruling{j.Egress, j.Ingress} {
				if r == nil {
					continue
				}
				for _, a := range r.Policies {
					if a.Nearest {
						got = append(got, a.Policy.Name+"["+string(rune('0'+a.Miss.Rule))+"] "+a.Miss.Text)
					}
				}
			}
			if strings.Join(got, "; ") != test.want {
				t.Errorf("nearest is %q, want %q", got, test.want)
			}
		})
	}
}
