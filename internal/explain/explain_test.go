// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// shop is a small cluster: nodes a and b, two pods on each, Services shop/cart (two backends, IPv4 and IPv6),
// shop/empty without backends and shop/dns over UDP.
func shop() *World {
	facts := []*schemas.Fact{
		nodeFact("a", "172.20.0.2", "fd00:20::2"), nodeFact("b", "172.20.0.3", "fd00:20::3"),
		podFact("shop", "front", "a", "10.244.1.2", "fd00:1::2"), podFact("shop", "cart-0", "a", "10.244.1.3", "fd00:1::3"),
		podFact("shop", "cart-1", "b", "10.244.2.3", "fd00:2::3"), podFact("other", "front", "b", "10.244.2.9"),
		hostPodFact("kube-system", "agent", "b"),
		serviceFact("shop", "cart", 80, model.TCP, "10.96.0.10", "fd00:96::10"), serviceFact("shop", "empty", 80, model.TCP, "10.96.0.11"),
		serviceFact("shop", "dns", 53, model.UDP, "10.96.0.12"), serviceFact("shop", "nothing", 80, model.TCP),
		serviceFact("shop", "moved", 80, model.SCTP, "10.96.0.13"), serviceFact("shop", "same", 80, model.SCTP, "10.96.0.14"),
		sliceFact("shop", "cart-x", "cart", 4), sliceFact("shop", "cart-a", "cart", 4), sliceFact("shop", "cart-v6", "cart", 6),
	}
	cluster := model.NewTables()
	set := func(id model.SetID, name string, port uint16, protocol model.Protocol, family model.Family, vip string, backends ...string) {
		key := model.SetKey{Service: model.ServicePort{Namespace: "shop", Name: name, Port: port, Protocol: protocol}, Family: family, Scope: model.ScopeAll}
		cluster.Sets[id] = model.BackendSet{ID: id, Root: id, SetKey: key}
		front := model.FrontendKey{Addr: netip.MustParseAddr(vip), Port: port, Protocol: protocol}
		cluster.Frontends[front] = model.Frontend{FrontendKey: front, Set: id, Kind: model.FrontendClusterIP}
		for i, text := range backends {
			addr := netip.MustParseAddrPort(text)
			b := model.Backend{ID: model.BackendID(10*int(id) + i), BackendKey: model.BackendKey{Set: id, Addr: addr.Addr(), Port: addr.Port()}, State: model.BackendActive}
			cluster.Backends[b.ID] = b
			m := model.Member{Set: id, Backend: b.ID}
			cluster.Members[m] = m
		}
	}
	set(1, "cart", 80, model.TCP, model.IPv4, "10.96.0.10", "10.244.2.3:8080", "10.244.1.3:8080")
	set(2, "cart", 80, model.TCP, model.IPv6, "fd00:96::10", "[fd00:1::3]:8080", "[fd00:2::3]:8080")
	set(3, "empty", 80, model.TCP, model.IPv4, "10.96.0.11")
	set(4, "dns", 53, model.UDP, model.IPv4, "10.96.0.12", "10.244.1.3:5353")
	set(5, "moved", 80, model.SCTP, model.IPv4, "10.96.0.13", "10.244.1.3:8080")
	set(6, "same", 80, model.SCTP, model.IPv4, "10.96.0.14", "10.244.1.3:80", "10.244.2.3:8080")
	return NewWorld(facts, map[model.Layer]*model.Tables{model.ClusterLayer: cluster}, Config{})
}

func raw(texts []string) (all [][]byte) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t).AsSlice())
	}
	return all
}

func ref(kind, namespace, name string) *schemas.ObjectRef {
	return &schemas.ObjectRef{Kind: kind, Namespace: namespace, Name: name, ResourceVersion: "7"}
}

func nodeFact(name string, addrs ...string) *schemas.Fact {
	return &schemas.Fact{Object: ref("Node", "", name), State: &schemas.Fact_Node{Node: &schemas.Node{Addresses: raw(addrs)}}}
}

func podFact(namespace, name, node string, addrs ...string) *schemas.Fact {
	pod := &schemas.Pod{Node: node, Addresses: raw(addrs), Ports: []*schemas.EndpointPort{{Name: "http", Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080}}}
	return &schemas.Fact{Object: ref("Pod", namespace, name), State: &schemas.Fact_Pod{Pod: pod}}
}

func hostPodFact(namespace, name, node string) *schemas.Fact {
	return &schemas.Fact{Object: ref("Pod", namespace, name), State: &schemas.Fact_Pod{Pod: &schemas.Pod{Node: node, HostNetwork: true}}}
}

func serviceFact(namespace, name string, port uint32, protocol model.Protocol, vips ...string) *schemas.Fact {
	service := &schemas.Service{ClusterIps: raw(vips), Type: "ClusterIP", Ports: []*schemas.ServicePort{{Name: "main", Port: port, Protocol: schemas.Protocol(protocol)}}}
	return &schemas.Fact{Object: ref("Service", namespace, name), Manager: "kubectl", State: &schemas.Fact_Service{Service: service}}
}

func sliceFact(namespace, name, service string, family schemas.IPFamily) *schemas.Fact {
	return &schemas.Fact{Object: ref("EndpointSlice", namespace, name), State: &schemas.Fact_EndpointSlice{EndpointSlice: &schemas.EndpointSlice{Service: service, Family: family}}}
}

func TestAsk(t *testing.T) {
	cart := []string{"10.244.1.3:8080", "10.244.2.3:8080"}
	for _, test := range []struct {
		name       string
		q          Question
		verdict    string
		reason     string
		service    string
		candidates []string
		via        string
	}{
		{"a pod to a Service", Question{From: "shop/front", To: "shop/cart:80"}, "forward", "none", "shop/cart:80", cart, "socket"},
		{"the port by name", Question{From: "shop/front", To: "shop/cart:main"}, "forward", "none", "shop/cart:80", cart, "socket"},
		{"a process of a node", Question{From: "172.20.0.3", To: "10.96.0.10:80"}, "forward", "none", "shop/cart:80", cart, "socket"},
		{"a pod in its node's network", Question{From: "kube-system/agent", To: "shop/cart:80"}, "forward", "none", "shop/cart:80", cart, "socket"},
		{"a raw packet from a pod", Question{From: "shop/front", To: "shop/cart:80", Via: "packet"}, "forward", "none", "shop/cart:80", cart, "packet"},
		{"IPv6", Question{From: "fd00:1::2", To: "shop/cart:80"}, "forward", "none", "shop/cart:80", []string{"[fd00:1::3]:8080", "[fd00:2::3]:8080"}, "socket"},
		{"no backends", Question{From: "shop/front", To: "shop/empty:80"}, "reject", "no_backend", "shop/empty:80", []string{}, "socket"},
		{"UDP", Question{From: "shop/front", To: "shop/dns:53", Proto: "udp"}, "forward", "none", "shop/dns:53", []string{"10.244.1.3:5353"}, "socket"},
		{"a port of another protocol", Question{From: "shop/front", To: "shop/dns:53"}, "forward", "none", "", []string{}, "socket"},
		{"a pod to a pod", Question{From: "shop/front", To: "shop/cart-1:http"}, "forward", "none", "", []string{}, "socket"},
		{"a wrong port", Question{From: "shop/front", To: "shop/cart:81"}, "forward", "none", "", []string{}, "socket"},
		{"SCTP from a pod", Question{From: "shop/front", To: "shop/cart:80", Proto: "sctp"}, "forward", "none", "", []string{}, "packet"},
		{"SCTP to a Service whose backends serve on another port", Question{From: "shop/front", To: "shop/moved:80", Proto: "sctp"}, "forward", "none", "shop/moved:80", []string{"10.244.1.3:8080"}, "packet"},
		{"the node's own SCTP", Question{From: "node/a", To: "shop/moved:80", Proto: "sctp"}, "forward", "none", "", []string{}, "none"},
		{"from outside", Question{Node: "a", From: "192.0.2.1:999", To: "shop/cart:80"}, "forward", "none", "shop/cart:80", cart, "packet"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := shop().Ask(Model{}, test.q)
			if err != nil {
				t.Fatal(err)
			}
			service := ""
			if got.Service != nil {
				service = *got.Service
			}
			want := []any{test.verdict, test.reason, test.service, test.candidates, test.via}
			if diff := cmp.Diff(want, []any{got.Verdict, got.Reason, service, got.Candidates, got.Via}); diff != "" {
				t.Errorf("%+v (-want +got):\n%s\nsteps:\n%s", test.q, diff, strings.Join(got.Steps, "\n"))
			}
		})
	}
}

func TestCausesAreTheServiceAndItsSlices(t *testing.T) {
	got, err := shop().Ask(Model{}, Question{From: "shop/front", To: "shop/cart:80"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Cause{
		{Kind: "Service", Namespace: "shop", Name: "cart", ResourceVersion: "7", Manager: "kubectl"},
		{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-a", ResourceVersion: "7"},
		{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-x", ResourceVersion: "7"},
	}
	if diff := cmp.Diff(want, got.Causes); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
}

func TestQuestionsThatCannotBeAnswered(t *testing.T) {
	for _, test := range []struct {
		q    Question
		says string
	}{
		{Question{To: "shop/cart:80"}, "from is missing"},
		{Question{From: "shop/front"}, "to is missing"},
		{Question{From: "shop/frunt", To: "shop/cart:80"}, "there is no such pod"},
		{Question{From: "cart/front", To: "shop/cart:80"}, "there is other/front, shop/front"},
		{Question{From: "front", To: "shop/cart:80"}, "want NAMESPACE/POD"},
		{Question{From: "10.0.0.300", To: "shop/cart:80"}, "want NAMESPACE/POD"},
		{Question{From: "10.0.0.3:0", To: "shop/cart:80"}, "nothing is sent from port 0"},
		{Question{From: "shop/front", To: "shop/cart"}, "want NAMESPACE/SERVICE:PORT"},
		{Question{From: "shop/front", To: "shop/cart:0"}, "no port number"},
		{Question{From: "shop/front", To: "shop/cart:70000"}, "no port number"},
		{Question{From: "shop/front", To: "10.96.0.10:0"}, "port 0"},
		{Question{From: "shop/front", To: "10.96.0.10"}, "want NAMESPACE/SERVICE:PORT"},
		{Question{From: "shop/front", To: "shop/nothing:80"}, "it is headless"},
		{Question{From: "shop/front", To: "shop/cart:80", Proto: "icmp"}, "want TCP, UDP or SCTP"},
		{Question{From: "shop/front", To: "shop/cart:80", Node: "b"}, "runs on node a"},
		{Question{From: "shop/front", To: "shop/cart:80", Node: "z"}, "there is no such node; there is a, b"},
		{Question{From: "192.0.2.1", To: "shop/cart:80"}, "node is missing"},
		{Question{From: "other/front", To: "[fd00:96::10]:80"}, "no address for"},
		{Question{From: "shop/front", To: "shop/cart:80", Via: "bird"}, "want socket or packet"},
		{Question{From: "node/a", To: "shop/cart:80", Via: "packet"}, "seen by the socket hooks alone"},
		{Question{From: "192.0.2.1", Node: "a", To: "shop/cart:80", Via: "socket"}, "no socket hook sees TCP from there"},
		{Question{From: "192.0.2.1", Node: "a", To: "127.0.0.1:80"}, "never reached from elsewhere"},
	} {
		answer, err := shop().Ask(Model{}, test.q)
		if err == nil {
			t.Errorf("%+v: answered %+v, want an error that says %q", test.q, answer, test.says)
		} else if !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %q doesn't say %q", test.q, err, test.says)
		}
	}
}

func TestBatchGoesOnAfterABadQuestion(t *testing.T) {
	in := strings.Join([]string{
		`{"id":1,"from":"shop/front","to":"shop/cart:80"}`,
		`{"id":"x","from":"shop/front","to":"shop/cart:80","colour":"red"}`,
		``,
		`not json`,
		`{"id":{"n":3},"from":"shop/none","to":"shop/cart:80"}`,
		strings.Repeat(" ", maxLine+1),
		`{"id":null,"to":"shop/empty:80"}`,
		`{"id":8,"from":"other/front","to":"shop/empty:80"}`,
		`{"id":9,"from":"192.0.2.1","to":"shop/empty:80"}`,
	}, "\n")
	var out strings.Builder
	asked, failed, err := shop().Batch(t.Context(), Model{}, Question{From: "shop/front", Node: "a"}, strings.NewReader(in), &out)
	if err != nil || asked != 8 || failed != 4 {
		t.Errorf("asked %d, failed %d, error %v: want 8, 4 and none", asked, failed, err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var o struct {
			ID             json.RawMessage
			Verdict, Error string
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		got = append(got, string(o.ID)+" "+o.Verdict+strings.SplitN(o.Error, ":", 2)[0])
	}
	want := []string{`1 forward`, `"x" not a question`, ` not a question`, `{"n":3} from "shop/none"`, ` the line is longer than 1048576 bytes`, `null reject`, `8 reject`, `9 reject`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s\n%s", diff, out.String())
	}
}

func TestConfig(t *testing.T) {
	good := "podCIDRs: [10.244.0.0/16]\nserviceCIDRs: [10.96.0.0/16, 'fd00:96::/112']\nmasqueradeAll: true\nlocalhostNodePorts: false\nallowExternalIPs: [192.0.2.0/24]\n"
	c, err := ParseConfig([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if !c.MasqueradeAll || *c.LocalhostNodePorts || len(c.ServiceCIDRs) != 2 || len(c.AllowExternalIPs) != 1 {
		t.Errorf("read as %+v", c)
	}
	for bad, want := range map[string]string{
		"podCidrs: []":                `unknown field "podCidrs"; the keys are podCIDRs, `,
		"podCIDRs: [10.244.0.0/33]":   `"10.244.0.0/33" is no CIDR such as 10.0.0.0/16; `,
		"forwarding: TUNNEL":          `"TUNNEL" is none of tunnel, dsr and snat`,
		"forwarding: [dsr]":           `forwarding: `,
		"podCIDRs: ['']":              `podCIDRs: "invalid Prefix" is no CIDR`,
		"serviceCIDRs: 10.96.0.0/16":  "serviceCIDRs: want a list of CIDRs such as [10.0.0.0/16], not a value of type string; ",
		"serviceCIDRs: [0.0.0.0/0]":   "podCIDRs and serviceCIDRs: 0.0.0.0/0 is more than a cluster's own: want /8 or longer",
		"masqueradeAll: 3":            "masqueradeAll: want true or false, not a value of type number; ",
		"localhostNodePorts: [false]": "localhostNodePorts: want true or false, not a value of type array; ",
		"- x":                         "want keys with values, not a value of type array; ",
	} {
		if _, err := ParseConfig([]byte(bad)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
}
