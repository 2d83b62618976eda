// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func kinds(t testing.TB, config Config) *World {
	t.Helper()
	config.AllowExternalIPs = append(config.AllowExternalIPs, netip.MustParsePrefix("192.0.2.0/24"))
	config.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
	w, warnings, err := FromFiles([]string{"testdata/kinds.yaml"}, config)
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range warnings {
		if !strings.Contains(warning, "198.51.100.14") { // an external IP that isn't allowed
			t.Error(warning)
		}
	}
	return w
}

// short is an answer in a line: verdict, reason if any, candidates by their nodes, what is masqueraded, the path.
func short(a *Answer) string {
	words := []string{a.Verdict}
	if a.Reason != "none" {
		words = append(words, a.Reason)
	}
	nodes := strings.NewReplacer("10.244.", "", "fd00:244:", "", "[", "", "]", "")
	for _, c := range a.Candidates {
		at := nodes.Replace(c)
		words = append(words, map[byte]string{'1': "a", '2': "b", '3': "c"}[at[0]])
	}
	if a.Masquerade {
		words = append(words, "masqueraded")
	}
	return strings.Join(append(words, a.Via), " ")
}

func TestAskAboutAllKinds(t *testing.T) {
	w := kinds(t, Config{})
	for _, test := range []struct {
		node, from, to, proto string
		service, want         string
	}{
		{"", "shop/front", "shop/plain:80", "tcp", "shop/plain:80", "forward a b socket"},
		{"", "shop/agent", "shop/plain:80", "tcp", "shop/plain:80", "forward a b socket"},
		{"", "node/c", "[fd00:96::10]:80", "tcp", "shop/plain:80", "forward a b socket"},
		{"a", "198.18.0.1", "shop/plain:80", "tcp", "shop/plain:80", "forward a b masqueraded packet"},
		{"", "shop/front", "shop/streams:80", "sctp", "shop/streams:80", "forward a b packet"},
		{"", "shop/front", "172.20.0.1:30010", "tcp", "shop/plain:80", "forward a b socket"},
		{"", "shop/front", "203.0.113.1:30010", "tcp", "shop/plain:80", "forward a b socket"},
		{"", "shop/front", "172.20.0.2:30010", "tcp", "shop/plain:80", "forward a b masqueraded packet"}, // at node b
		{"a", "shop/front", "172.20.0.2:30010", "tcp", "", "forward socket"},
		{"b", "shop/front", "172.20.0.2:30010", "tcp", "shop/plain:80", "forward a b masqueraded packet"},
		{"a", "198.18.0.1", "172.20.0.1:30010", "tcp", "shop/plain:80", "forward a b packet"},
		{"a", "198.18.0.1", "172.20.0.1:30011", "udp", "shop/datagrams:80", "forward a b packet"},
		{"a", "198.18.0.1", "172.20.0.1:30012", "sctp", "shop/streams:80", "forward a b packet"},
		{"a", "fd00:99::1", "[fd00:20::1]:30010", "tcp", "shop/plain:80", "forward a b packet"},
		{"a", "198.18.0.1", "172.20.0.1:30013", "tcp", "", "forward packet"},
		{"", "node/a", "127.0.0.1:30010", "tcp", "shop/plain:80", "forward a b socket"},
		{"", "node/a", "[::1]:30011", "udp", "shop/datagrams:80", "forward a b socket"},
		{"", "shop/front", "127.0.0.1:30010", "tcp", "", "forward socket"},
		{"", "shop/front", "shop/internal:80", "tcp", "shop/internal:80", "forward a socket"},
		{"", "node/c", "shop/internal:80", "tcp", "shop/internal:80", "drop no_local_backend socket"},
		{"a", "198.18.0.1", "192.0.2.114:80", "tcp", "shop/external:80", "forward a packet"},
		{"c", "198.18.0.1", "192.0.2.114:80", "tcp", "shop/external:80", "drop no_local_backend packet"},
		{"", "shop/back", "192.0.2.114:80", "tcp", "shop/external:80", "forward a b socket"},
		{"", "node/c", "192.0.2.114:80", "tcp", "shop/external:80", "forward a b socket"},
		{"a", "198.18.0.1", "172.20.0.1:30014", "tcp", "shop/external:80", "forward a packet"},
		{"a", "198.18.0.1", "192.0.2.14:80", "tcp", "shop/external:80", "forward a packet"},
		{"a", "198.18.0.1", "192.0.2.214:80", "tcp", "", "forward packet"},   // ipMode Proxy
		{"a", "198.18.0.1", "198.51.100.14:80", "tcp", "", "forward packet"}, // not allowed
		{"a", "198.18.0.1", "192.0.2.115:80", "tcp", "shop/ranged:80", "drop source_range packet"},
		{"a", "198.51.100.1", "192.0.2.115:80", "tcp", "shop/ranged:80", "forward a b packet"},
		{"a", "192.0.2.115", "192.0.2.115:80", "tcp", "shop/ranged:80", "forward a b packet"},
		{"", "shop/front", "192.0.2.115:80", "tcp", "shop/ranged:80", "drop source_range packet"},
		{"", "shop/back", "192.0.2.115:80", "tcp", "shop/ranged:80", "forward a b packet"},
		{"", "node/a", "192.0.2.115:80", "tcp", "shop/ranged:80", "forward a b socket"},
		{"", "node/b", "192.0.2.115:80", "tcp", "shop/ranged:80", "drop source_range socket"},
		{"a", "198.18.0.1", "172.20.0.1:30015", "tcp", "shop/ranged:80", "forward a b packet"},
		{"", "shop/front", "shop/zoned:80", "tcp", "shop/zoned:80", "forward a socket"},
		{"", "shop/back", "shop/zoned:80", "tcp", "shop/zoned:80", "forward b c socket"},
		{"", "node/c", "shop/noded:80", "tcp", "shop/noded:80", "forward b c socket"},
		{"", "node/b", "shop/noded:80", "tcp", "shop/noded:80", "forward b c socket"},
		{"", "node/a", "shop/noded:80", "tcp", "shop/noded:80", "forward a socket"},
		{"", "node/a", "shop/partly:80", "tcp", "shop/partly:80", "forward a b socket"},
		{"", "node/a", "shop/ending:80", "tcp", "shop/ending:80", "forward a socket"},
		{"a", "198.18.0.1", "172.20.0.1:30019", "tcp", "shop/ending:80", "forward a packet"},
		{"", "node/a", "shop/last:80", "tcp", "shop/last:80", "forward a socket"},
		{"", "node/a", "shop/empty:80", "tcp", "shop/empty:80", "reject no_backend socket"},
		{"a", "198.18.0.1", "172.20.0.1:30021", "tcp", "shop/empty:80", "reject no_backend packet"},
		{"", "shop/front", "shop/sticky:80", "tcp", "shop/sticky:80", "forward a b socket"},
		{"b", "198.18.0.1", "172.20.0.2:8888", "tcp", "shop/edge:8888", "forward b packet"},
		{"b", "198.18.0.1", "172.20.0.2:8889", "tcp", "", "forward packet"},
		{"b", "198.18.0.1", "203.0.113.2:8889", "tcp", "shop/edge:8889", "forward b packet"},
		{"", "shop/front", "203.0.113.2:8889", "tcp", "shop/edge:8889", "forward b packet"},
		{"a", "198.18.0.1", "172.20.0.1:8888", "tcp", "", "forward packet"},
		{"", "shop/front", "shop/plain:81", "tcp", "", "reject wrong_port socket"},
		{"", "shop/front", "shop/plain:80", "udp", "", "reject wrong_port socket"},
		{"a", "198.18.0.1", "shop/plain:81", "tcp", "", "reject wrong_port packet"},
		{"", "shop/front", "10.96.9.9:80", "tcp", "", "drop unallocated socket"},
		{"", "shop/cart-a", "shop/plain:80", "tcp", "shop/plain:80", "forward a b socket"},
		{"", "shop/cart-a", "shop/streams:80", "sctp", "shop/streams:80", "forward a b masqueraded packet"}, // itself
	} {
		q := Question{Node: test.node, From: test.from, To: test.to, Proto: test.proto}
		got, err := w.Ask(Model{}, q)
		if err != nil {
			t.Errorf("%+v: %v", q, err)
			continue
		}
		service := ""
		if got.Service != nil {
			service = *got.Service
		}
		if short(got) != test.want || service != test.service {
			t.Errorf("%s → %s/%s at node %q: %s, service %q, want %s, service %q\n  %s",
				test.from, test.to, test.proto, test.node, short(got), service, test.want, test.service, strings.Join(got.Steps, "\n  "))
		}
	}
}

func TestConfigurationDecides(t *testing.T) {
	no := false
	prefix := netip.MustParsePrefix
	for _, test := range []struct {
		name   string
		config Config
		q      Question
		want   string
	}{
		{"nodePortAddresses", Config{NodePortAddresses: []netip.Prefix{prefix("203.0.113.0/24")}}, Question{Node: "a", From: "198.18.0.1", To: "172.20.0.1:30010"}, "forward packet"},
		{"nodePortAddresses that are", Config{NodePortAddresses: []netip.Prefix{prefix("203.0.113.0/24")}}, Question{Node: "a", From: "198.18.0.1", To: "203.0.113.1:30010"}, "forward a b packet"},
		{"nodePortAddresses and loopback", Config{NodePortAddresses: []netip.Prefix{prefix("203.0.113.0/24")}}, Question{From: "node/a", To: "127.0.0.1:30010"}, "forward socket"},
		{"localhostNodePorts", Config{LocalhostNodePorts: &no}, Question{From: "node/a", To: "127.0.0.1:30010"}, "forward socket"},
		{"masqueradeAll", Config{MasqueradeAll: true}, Question{From: "shop/front", To: "shop/plain:80"}, "forward a b masqueraded packet"},
		{"masqueradeAll and the node's own", Config{MasqueradeAll: true}, Question{From: "node/a", To: "shop/plain:80"}, "forward a b socket"},
		{"masqueradeAll and Local", Config{MasqueradeAll: true}, Question{Node: "a", From: "198.18.0.1", To: "192.0.2.114:80"}, "forward a packet"},
		{"podCIDRs", Config{PodCIDRs: []netip.Prefix{prefix("198.18.0.0/16")}}, Question{Node: "c", From: "198.18.0.1", To: "192.0.2.114:80"}, "forward a b masqueraded packet"},
		{"allowExternalIPs", Config{AllowExternalIPs: []netip.Prefix{prefix("198.51.100.0/24")}}, Question{Node: "a", From: "198.18.0.1", To: "198.51.100.14:80"}, "forward a packet"},
	} {
		got, err := kinds(t, test.config).Ask(Model{}, test.q)
		if err != nil || short(got) != test.want {
			t.Errorf("%s: %+v: %v (%v), want %s", test.name, test.q, got, err, test.want)
		}
	}
}

// everyQuestion is all pairs of who may ask and what may be asked for.
func everyQuestion(w *World) (all []Question) {
	var to []string
	for name := range w.services {
		if w.services[name].GetService().GetType() != "ExternalName" && name != "shop/headless" {
			to = append(to, name+":80", name+":81")
		}
	}
	for _, at := range []string{"172.20.0.1", "203.0.113.2", "[fd00:20::1]", "192.0.2.114", "192.0.2.115", "192.0.2.214", "10.96.9.9", "10.244.1.3"} {
		for _, port := range []string{"80", "30010", "30011", "30014", "30015", "30019", "30021", "8888", "8889", "8080"} {
			to = append(to, at+":"+port)
		}
	}
	for _, from := range []Question{
		{From: "shop/front"},
		{From: "shop/cart-a", Via: "packet"},
		{From: "shop/back", Via: "packet"},
		{From: "shop/agent"},
		{From: "node/b"},
		{From: "198.18.0.1", Node: "a"},
		{From: "198.51.100.1", Node: "b"},
		{From: "fd00:99::1", Node: "a"},
		{From: "192.0.2.115", Node: "c"},
	} {
		for _, at := range to {
			for _, proto := range []string{"tcp", "udp", "sctp"} {
				q := from
				q.To, q.Proto = at, proto
				all = append(all, q)
			}
		}
	}
	return all
}

func TestEnginesAgreeOnEverything(t *testing.T) {
	testkit.NeedKernel(t)
	for _, config := range []Config{{}, {MasqueradeAll: true}} {
		w := kinds(t, config)
		kernel, err := NewKernel(w)
		if err != nil {
			t.Fatal(err)
		}
		defer kernel.Close()
		asked := 0
		for _, q := range everyQuestion(w) {
			model, err := w.Ask(Model{}, q)
			if err != nil {
				continue // an address of a family that the source doesn't have
			}
			asked++
			got, err := w.Ask(kernel, q)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			if diff := cmp.Diff(model, got, cmpopts.IgnoreFields(Answer{}, "Steps", "Evidence")); diff != "" {
				t.Fatalf("%+v (-model +kernel):\n%s\n%s", q, diff, strings.Join(got.Steps, "\n"))
			}
		}
		t.Logf("%d questions", asked)
	}
}
