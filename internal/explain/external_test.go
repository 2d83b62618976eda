// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func outside(t testing.TB) *World {
	t.Helper()
	w, warnings, err := FromFiles([]string{"testdata/outside.yaml"}, Config{
		AllowExternalIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	})
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	return w
}

// Row 14: explain tells where a client's packets are wrapped, whom the backend sees, and why that is not always the client.
// Row 15: and which node answers.
func TestWaysOfClientsOutside(t *testing.T) {
	w := outside(t)
	for _, test := range []struct {
		name, from, to string
		want           string // the mode, and for each backend: address, node, wrapped, whom it sees, who answers
		says           []string
	}{
		{
			"tunnel", "198.18.0.1", "172.20.0.1:30001",
			"tunnel; 10.244.1.3:8080 a 198.18.0.1 a; 10.244.2.3:8080 b wrapped 198.18.0.1 a; 10.244.3.3:8080 c 172.20.0.1 a; 192.0.2.99:8080  172.20.0.1 a",
			[]string{
				"10.244.1.3:8080: the backend sees the client's own address 198.18.0.1, and answers through node a (the backend is on the first node)",
				"10.244.2.3:8080: node a wraps its packets for node b (172.20.0.2), which unwraps them: the backend sees the client's own address 198.18.0.1. " +
					"Answers go back wrapped, and leave node a with source 172.20.0.1:30001 (the cluster's forwarding is tunnel, and the backend is on another node)",
				"(node c has no InternalIP of a family that node a has, so there is nobody to wrap for)",
				"192.0.2.99:8080: its packets leave node a with that node's address 172.20.0.1, so that answers come back this way " +
					"(no EndpointSlice says on which node the backend is, so there is nobody to wrap for)",
				"the same on whichever node it arrives",
			},
		},
		{
			"dsr", "198.18.0.1", "203.0.113.2:80", "dsr; 10.244.2.3:8080 b wrapped 198.18.0.1 b",
			[]string{
				"its loadBalancerSourceRanges let the client in",
				"Node b answers the client itself, with source 203.0.113.2:80 (the Service's annotation deltaplane.io/forwarding is dsr, and the backend is on another node)",
			},
		},
		{
			"snat", "198.18.0.1", "192.0.2.3:80", "snat; 10.244.2.3:8080 b 172.20.0.1 a",
			[]string{"(the Service's annotation deltaplane.io/forwarding is snat)"},
		},
		{
			"Local", "198.18.0.1", "172.20.0.1:30004", "local; 10.244.1.3:8080 a 198.18.0.1 a",
			[]string{"externalTrafficPolicy is Local: only backends on node a count", "(externalTrafficPolicy is Local: only backends on the first node count)"},
		},
		{"outside the ranges", "192.0.2.1", "203.0.113.2:80", "", nil},
		{"a cluster IP", "198.18.0.1", "10.96.0.1:80", "", []string{"so that answers come back this way"}},
	} {
		a, err := w.Ask(Model{}, Question{Node: "a", From: test.from, To: test.to})
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got := a.External.short(); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		steps := strings.Join(a.Steps, "\n")
		for _, text := range test.says {
			if !strings.Contains(steps, text) {
				t.Errorf("%s: the steps don't say %q:\n%s", test.name, text, steps)
			}
		}
	}
}

func (e *External) short() string {
	if e == nil {
		return ""
	}
	words := []string{e.Mode}
	for _, r := range e.Backends {
		how := ""
		if r.Wrapped {
			how = " wrapped"
		}
		words = append(words, r.Backend+" "+r.Node+how+" "+r.Source+" "+r.Back)
	}
	return strings.Join(words, "; ")
}

func TestExternalInJSON(t *testing.T) {
	a, err := outside(t).Ask(Model{}, Question{Node: "a", From: "198.18.0.1", To: "203.0.113.2:80"})
	if err != nil {
		t.Fatal(err)
	}
	want := &External{Mode: "dsr", FirstNode: "a", Backends: []Reached{{
		Backend: "10.244.2.3:8080", Node: "b", Wrapped: true, To: "172.20.0.2", ID: a.External.Backends[0].ID, Source: "198.18.0.1", Back: "b",
		Why: "the Service's annotation deltaplane.io/forwarding is dsr, and the backend is on another node",
	}}}
	if diff := cmp.Diff(want, a.External); diff != "" || a.External.Backends[0].ID == 0 || !a.ClientAddressKept || a.Masquerade {
		t.Errorf("%+v (-want +got):\n%s", a, diff)
	}
}

// The programs of both nodes are run, and what the first wraps the other takes.
func TestKernelWrapsAsExplained(t *testing.T) {
	testkit.NeedKernel(t)
	w := outside(t)
	kernel, err := NewKernel(w)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	a, err := w.Ask(kernel, Question{Node: "a", From: "198.18.0.1", To: "203.0.113.2:80"})
	if err != nil {
		t.Fatal(err)
	}
	if steps := strings.Join(a.Steps, "\n"); !strings.Contains(steps, "those of node a wrapped the packet, and those of node b sent it to 10.244.2.3:8080") {
		t.Errorf("the steps don't tell that both programs were run:\n%s", steps)
	}
}
