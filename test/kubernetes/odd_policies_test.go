// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	feature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/kubernetes/pkg/features"
	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel/policy"
)

var networkPolicies = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}

// folk are the pods of the tests of single policies, and a stranger.
var folk = map[string]netip.Addr{
	"east/client": netip.MustParseAddr("10.244.7.1"), "east/server": netip.MustParseAddr("10.244.7.2"),
	"north/client": netip.MustParseAddr("10.244.7.3"), "stranger": strangers[0],
}

// podsOfFolk has ports of one name in two protocols, and in several containers.
const podsOfFolk = `
- {metadata: {name: client, namespace: east, labels: {app: a, tier: ""}}, spec: {nodeName: node-1, containers: [{name: main, image: none}]}}
- {metadata: {name: server, namespace: east, labels: {app: b}}, spec: {nodeName: node-2, containers: [
    {name: main, image: none, ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]},
    {name: second, image: none, ports: [{name: http, containerPort: 8081, protocol: UDP}, {name: more, containerPort: 9000}]},
    {name: third, image: none, ports: [{name: http, containerPort: 8082}]}], initContainers: [
    {name: sidecar, image: none, restartPolicy: Always, ports: [{name: mesh, containerPort: 15000}, {name: more, containerPort: 15001}]},
    {name: before, image: none, ports: [{name: setup, containerPort: 7000}]}]}}
- {metadata: {name: client, namespace: north, labels: {app: a}}, spec: {nodeName: node-3, containers: [{name: main, image: none}]}}
`

// odd is the specification of a NetworkPolicy in namespace east, and what becomes of connections: "yes FROM TO:PORT/PROTO"
// or "no FROM TO:PORT/PROTO". Without any the API server doesn't take it.
type odd struct {
	name, spec string
	lines      []string
}

var oddities = []odd{
	{
		"an empty podSelector isolates the namespace for ingress, by default", `{podSelector: {}}`,
		[]string{"no east/client east/server:80/TCP", "no north/client east/client:80/UDP", "yes east/server north/client:80/TCP"},
	},
	{
		"rules of a direction that isn't isolated have no say", `{podSelector: {}, policyTypes: [Egress], ingress: [{ports: [{port: 80}]}]}`,
		[]string{"yes north/client east/server:81/TCP", "no east/client north/client:80/TCP"},
	},
	{
		"egress rules isolate for both, by default", `{podSelector: {}, egress: [{}]}`,
		[]string{"yes east/client north/client:80/TCP", "yes east/client stranger:80/UDP", "no north/client east/client:80/TCP"},
	},
	{
		"no types at all are those of the default", `{podSelector: {}, policyTypes: [], egress: [{}]}`,
		[]string{"yes east/client stranger:80/TCP", "no stranger east/client:80/TCP"},
	},
	{
		"a type twice is once", `{podSelector: {}, policyTypes: [Ingress, Ingress]}`,
		[]string{"no stranger east/client:80/TCP", "yes east/server stranger:80/TCP"},
	},
	{
		"an empty rule is everyone at every port", `{podSelector: {}, ingress: [{}]}`,
		[]string{"yes stranger east/server:80/SCTP", "yes north/client east/server:80/UDP"},
	},
	{
		"so are empty lists", `{podSelector: {}, ingress: [{from: [], ports: []}]}`,
		[]string{"yes stranger east/server:80/SCTP"},
	},
	{
		"a port without anything is all of TCP", `{podSelector: {}, ingress: [{ports: [{}]}]}`,
		[]string{"yes stranger east/server:1/TCP", "no stranger east/server:1/UDP"},
	},
	{
		"a protocol alone is all its ports", `{podSelector: {}, ingress: [{ports: [{protocol: SCTP}]}]}`,
		[]string{"yes stranger east/server:9/SCTP", "no stranger east/server:9/TCP"},
	},
	{
		"a number alone is TCP's", `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`,
		[]string{"yes stranger east/server:80/TCP", "no stranger east/server:80/UDP", "no stranger east/server:81/TCP"},
	},
	{
		"a range of one", `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 80}]}]}`,
		[]string{"yes stranger east/server:80/TCP", "no stranger east/server:81/TCP", "no stranger east/server:79/TCP"},
	},
	{
		"a range of all", `{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 65535, protocol: UDP}]}]}`,
		[]string{"yes stranger east/server:1/UDP", "yes stranger east/server:65535/UDP", "no stranger east/server:80/TCP"},
	},
	{
		"a name is TCP's without a protocol", `{podSelector: {}, ingress: [{ports: [{port: http}, {port: dns}]}]}`,
		[]string{"yes stranger east/server:8080/TCP", "no stranger east/server:8081/UDP", "no stranger east/server:53/UDP", "no stranger east/server:53/TCP"},
	},
	{
		"a name of the other protocol is another port's, in another container", `{podSelector: {}, ingress: [{ports: [{port: http, protocol: UDP}, {port: more}]}]}`,
		[]string{"yes stranger east/server:8081/UDP", "no stranger east/server:8080/UDP", "yes stranger east/server:9000/TCP"},
	},
	{
		"of containers' ports with one name and protocol the first is meant", `{podSelector: {}, ingress: [{ports: [{port: http}, {port: more}]}]}`,
		[]string{"yes stranger east/server:8080/TCP", "no stranger east/server:8082/TCP", "yes stranger east/server:9000/TCP", "no stranger east/server:15001/TCP"},
	},
	{
		"a sidecar's name is the pod's, and one of what has run before isn't", `{podSelector: {}, ingress: [{ports: [{port: mesh}, {port: setup}]}]}`,
		[]string{"yes stranger east/server:15000/TCP", "no stranger east/server:7000/TCP"},
	},
	{
		"egress to a name is the peer's", `{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]}`,
		[]string{"yes east/client east/server:8080/TCP", "no east/client east/server:80/TCP", "no east/client stranger:8080/TCP"},
	},
	{
		"an empty podSelector of a peer is the own namespace", `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`,
		[]string{"yes east/client east/server:80/TCP", "no north/client east/server:80/TCP", "no stranger east/server:80/TCP"},
	},
	{
		"an empty namespaceSelector is all pods, and no one else", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`,
		[]string{"yes north/client east/server:80/TCP", "no stranger east/server:80/TCP"},
	},
	{
		"an empty value is a value", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {tier: ""}}}]}]}`,
		[]string{"yes east/client east/server:80/TCP", "no north/client east/server:80/TCP"},
	},
	{
		"NotIn an empty value is who lacks the key, too", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [""]}]}}]}]}`,
		[]string{"no east/client east/server:80/TCP", "yes north/client east/server:80/TCP"},
	},
	{
		"requirements that exclude each other select no one", `{podSelector: {matchExpressions: [{key: app, operator: Exists}, {key: app, operator: DoesNotExist}]}}`,
		[]string{"yes stranger east/server:80/TCP"},
	},
	{
		"a block with exceptions", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.7.3/32]}}]}]}`,
		[]string{"yes east/client east/server:80/TCP", "no north/client east/server:80/TCP", "no stranger east/server:80/TCP"},
	},
	{
		"a block of which nothing is left", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [0.0.0.0/1, 128.0.0.0/1]}}]}]}`,
		[]string{"no east/client east/server:80/TCP", "no stranger east/server:80/TCP"},
	},
	{
		"an exception is that of its block", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.7.3/32]}}, {ipBlock: {cidr: 10.244.7.3/32}}]}]}`,
		[]string{"yes north/client east/server:80/TCP"},
	},

	{"a peer that is no one", `{podSelector: {}, ingress: [{from: [{}]}]}`, nil},
	{"a peer of two kinds", `{podSelector: {}, ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}`, nil},
	{"a range that ends before it begins", `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}`, nil},
	{"a range from a name", `{podSelector: {}, ingress: [{ports: [{port: http, endPort: 9000}]}]}`, nil},
	{"a range without a beginning", `{podSelector: {}, ingress: [{ports: [{endPort: 9000}]}]}`, nil},
	{"a number as text", `{podSelector: {}, ingress: [{ports: [{port: "80"}]}]}`, nil},
	{"port 0", `{podSelector: {}, ingress: [{ports: [{port: 0}]}]}`, nil},
	{"a protocol without ports", `{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}`, nil},
	{"an exception that is all of the block", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}`, nil},
	{"an exception outside of the block", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}`, nil},
	{"an exception of the other family", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::/0", except: [10.0.0.0/8]}}]}]}`, nil},
	{"In without values", `{podSelector: {matchExpressions: [{key: app, operator: In}]}}`, nil},
}

// oldSpellings are those that API servers before 1.36 take, and later ones keep.
var oldSpellings = []odd{
	{
		"a block with bits below its prefix", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.244.7.3/31]}}]}]}`,
		[]string{"yes east/client east/server:80/TCP", "no north/client east/server:80/TCP"},
	},
	{
		"a block with leading zeros", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.244.007.001/32}}]}]}`,
		[]string{"yes east/client east/server:80/TCP", "no north/client east/server:80/TCP"},
	},
	{
		"an IPv4 block in IPv6's writing", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::ffff:10.244.7.1/128"}}]}]}`,
		[]string{"yes east/client east/server:80/TCP", "no north/client east/server:80/TCP"},
	},
}

// Policy row 1: what the API server fills in, and what it takes of the seldom written, judges as its specification says.
// Policy row 2: blocks, however they are written.
// Trap 43: a port's name is one of a protocol, in whichever container.
// Trap 44: empty selectors and lists, and directions.
func TestPoliciesThatAreSeldomWritten(t *testing.T) {
	town := NewTown(t)
	town.settleFolk(t)
	for _, test := range oddities {
		t.Run(test.name, func(t *testing.T) { town.odd(t, test) })
	}
	for _, test := range oldSpellings {
		t.Run(test.name, func(t *testing.T) {
			featuregatetesting.SetFeatureGateDuringTest(t, feature.DefaultFeatureGate, features.StrictIPCIDRValidation, false)
			town.odd(t, test)
		})
	}
}

// settleFolk makes the pods.
func (w *Town) settleFolk(t *testing.T) {
	t.Helper()
	for _, name := range districts {
		w.Namespace(t, name)
	}
	var pods []*corev1.Pod
	fatal(t, yaml.UnmarshalStrict([]byte(podsOfFolk), &pods))
	for _, pod := range pods {
		pod, err := w.putPod(t.Context(), pod)
		fatal(t, err)
		fatal(t, w.address(t.Context(), pod, []corev1.PodIP{{IP: folk[pod.Namespace+"/"+pod.Name].String()}}))
	}
}

// odd holds a policy to its lines, and to what the model says of its objects.
func (w *Town) odd(t *testing.T, test odd) {
	policies := w.Dynamic.Resource(networkPolicies).Namespace("east")
	object := objectOf(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: odd}, spec: "+test.spec+"}")
	switch _, err := policies.Create(t.Context(), object, metav1.CreateOptions{}); {
	case test.lines == nil && !apierrors.IsInvalid(err):
		t.Errorf("the API server took it (%v): what deltaplane makes of it needs a test of its own", err)
	case test.lines != nil:
		fatal(t, err)
	}
	if test.lines != nil {
		m := matrixOf(w.settles(t))
		for _, line := range test.lines {
			if passes, c := lineOf(t, line); m.passes(t, c) != passes {
				t.Errorf("%s: the kernels decide otherwise", line)
			}
		}
		m.agrees(t)
	}
	if err := policies.Delete(t.Context(), "odd", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		fatal(t, err)
	}
}

// passes says whether the rows in the kernels of both ends let a connection begin.
func (m *Matrix) passes(t *testing.T, c policy.Connection) bool {
	t.Helper()
	passes := true
	for node, rows := range m.rows {
		for _, d := range []model.Direction{model.Egress, model.Ingress} {
			e := endOf(d, c)
			if _, here := rows.Endpoints[e.Pod.Addr()]; here && m.nodes[node].Judge(d, e).Reason != model.ReasonNone {
				passes = false
			}
		}
	}
	return passes
}

func lineOf(t *testing.T, line string) (passes bool, c policy.Connection) {
	t.Helper()
	var word, from, to, protocol string
	if _, err := fmt.Sscan(strings.ReplaceAll(line, ":", " "), &word, &from, &to, &protocol); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	number, name, _ := strings.Cut(protocol, "/")
	at, err := netip.ParseAddrPort(folk[to].String() + ":" + number)
	fatal(t, err)
	of, err := model.ParseProtocol(strings.ToLower(name))
	fatal(t, err)
	return word == "yes", policy.Connection{From: folk[from], To: at.Addr(), Protocol: of, Port: at.Port()}
}
