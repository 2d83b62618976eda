// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// tables reads all rows that a node's programmer holds.
func (p *pipeline) tables(conn *bus.Conn, node string) (*model.Tables, error) {
	request, err := proto.Marshal(&schemas.DumpRequest{Node: node})
	if err != nil {
		return nil, err
	}
	tables := model.NewTables()
	err = conn.RequestMany(p.t.Context(), schemas.ActualSubject(node), request, bus.AnswerWithin, func(data []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(data, &reply); err != nil {
			return false, err
		}
		if refused := reply.GetRefused(); refused != "" {
			return false, errors.New(refused)
		}
		rows, err := wire.RowsFromProto(reply.GetRows())
		tables.Apply(&model.Change{Put: rows}, model.Digest{})
		return !reply.GetLast(), err
	})
	return tables, err
}

// judged says for each pod what strangers meet: what it lets in and what it may send, "open" without policy.
func judged(t *model.Tables) map[string]string {
	say := func(id model.RuleSetID) string {
		if id == 0 {
			return "open"
		}
		return t.Verdicts[model.VerdictKey{RuleSet: id}].Action.String()
	}
	all := map[string]string{}
	for _, e := range t.Endpoints {
		all[e.Pod] = say(e.Ingress) + "/" + say(e.Egress)
	}
	return all
}

// judges waits until a node's pods are judged so.
func (p *pipeline) judges(conn *bus.Conn, node string, want map[string]string) {
	p.t.Helper()
	var got map[string]string
	before := p.t.Failed()
	defer func() {
		if p.t.Failed() && !before {
			p.t.Logf("what pods of node %s pass (-want +got):\n%s", node, cmp.Diff(want, got))
		}
	}()
	testkit.Eventually(p.t, patience, func() bool {
		if tables, err := p.tables(conn, node); err == nil {
			got = judged(tables)
		}
		return maps.Equal(got, want)
	})
}

func podYAML(namespace, name string, last int) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {app: %[1]s}}\n"+
		"spec: {nodeName: node-1, containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}\n"+
		"status: {phase: Running, podIP: 10.244.1.%[3]d}\n", name, namespace, last)
}

func policyYAML(namespace, name, spec string) string {
	return fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, namespace, spec)
}

func clusterPolicyYAML(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

// badPolicies are policies that can't be used, each in a namespace of its own with the pods "a" and "b", what status
// says of it, what these pods pass, and what makes the policy good again.
var badPolicies = []struct {
	namespace, text, says, a, b string
	repaired                    string
}{
	{
		"block", policyYAML("block", "p", "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10/8}}]}]}"),
		`NetworkPolicy block/p: the pods that it selects pass nothing: spec.ingress[0].from[0].ipBlock.cidr: "10/8" is no prefix`,
		"closed/open", "open/open",
		policyYAML("block", "p", "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}"),
	},
	{
		"ports", policyYAML("ports", "p", "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: 90, endPort: 80}]}]}"),
		"NetworkPolicy ports/p: the pods that it selects pass nothing: spec.egress[0].ports[0].endPort: 80 is below port 90",
		"open/closed", "open/open",
		policyYAML("ports", "p", "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: 80, endPort: 90}]}]}"),
	},
	{
		"selector", policyYAML("selector", "p", "{podSelector: {matchExpressions: [{key: app, operator: Is, values: [a]}]}}"),
		`NetworkPolicy selector/p: the pods that it selects pass nothing: spec.podSelector: "Is" is not a valid label selector operator`,
		"closed/open", "closed/open",
		policyYAML("selector", "p", "{podSelector: {matchExpressions: [{key: app, operator: In, values: [a]}]}}"),
	},
	{
		"typo", policyYAML("typo", "p", "{podSelector: {matchLabels: {app: a}}, ingres: [{}]}"),
		`NetworkPolicy typo/p: FOLDER/typo.yaml: document 1: NetworkPolicy typo/p: unknown field "spec.ingres"`,
		"closed/closed", "open/open",
		policyYAML("typo", "p", "{podSelector: {matchLabels: {app: a}}, ingress: []}"),
	},
	{
		"tier", clusterPolicyYAML("tier", "{tier: Middle, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tier}}, "+
			"podSelector: {matchLabels: {app: a}}}}, egress: [{action: Accept, to: [{nodes: {}}]}]}"),
		`ClusterNetworkPolicy tier: the pods that it selects pass nothing: spec.tier: "Middle" is not Admin or Baseline`,
		"open/closed", "open/open", "",
	},
	{
		"newer", clusterPolicyYAML("newer", "{tier: Admin, priority: 2, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: newer}}}, "+
			"ingress: [{action: Accept, from: [{clusters: {}}]}, {action: Pass, from: [{clusters: {}}]}]}"),
		`ClusterNetworkPolicy newer: ingress[0]: peers[0] is "clusters", which this version doesn't know`,
		"deny/open", "deny/open", "",
	},
}

// One folder has a policy of every sort that can't be used, and good ones. Each bad one is named with its reason, and
// closes the pods that it selects and no others; the good ones judge. Repaired, nothing is closed or named any more.
//
// Policy row 9: what can't be used is refused as a whole and named, its pods fail closed, others are untouched.
func TestBadPoliciesCloseWhatTheySelectAndNothingElse(t *testing.T) {
	p := begin(t)
	p.write("nodes.yaml", nodeYAML("node-1"))
	p.write("good.yaml", policyYAML("good", "p", "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {}}], ports: [{port: web}]}]}")+
		clusterPolicyYAML("good", "{tier: Baseline, priority: 0, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: good}}}, "+
			"ingress: [{action: Deny, from: [{namespaces: {}}]}]}")+podYAML("good", "a", 1)+podYAML("good", "b", 2))
	want := map[string]string{"good/a": "isolate/open", "good/b": "allow/open"}
	for i, bad := range badPolicies {
		p.write(bad.namespace+".yaml", bad.text)
		p.write(bad.namespace+"-pods.yaml", podYAML(bad.namespace, "a", 10+2*i)+podYAML(bad.namespace, "b", 11+2*i))
		want[bad.namespace+"/a"], want[bad.namespace+"/b"] = bad.a, bad.b
	}
	p.startBus()
	p.startServices("node-1")
	conn := p.connect()

	s := p.expect("every bad policy named", func(s status) bool { return s.Converged == 1 && len(s.SetAside) >= len(badPolicies) })
	for _, bad := range badPolicies {
		if !slices.ContainsFunc(s.SetAside, func(a aside) bool { return says(a.String(), p.folder, []string{bad.says}) }) {
			t.Errorf("nothing says %q", bad.says)
		}
	}
	if t.Failed() {
		for _, a := range s.SetAside {
			t.Log(a)
		}
	}
	p.judges(conn, "node-1", want)

	// One that goes bad closes; one that can't be read at all stays as it was.
	p.write("good.yaml", strings.Replace(policyYAML("good", "p", "{podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: Web}]}]}"), "Web", "-", 1)+
		podYAML("good", "a", 1)+podYAML("good", "b", 2))
	want["good/a"], want["good/b"] = "open/open", "closed/open"
	p.judges(conn, "node-1", want)

	for _, bad := range badPolicies {
		p.write(bad.namespace+".yaml", bad.repaired)
		want[bad.namespace+"/a"], want[bad.namespace+"/b"] = "isolate/open", "open/open"
		switch {
		case bad.repaired == "":
			want[bad.namespace+"/a"] = "open/open"
		case bad.namespace == "ports":
			want["ports/a"] = "open/isolate"
		}
	}
	p.write("good.yaml", podYAML("good", "a", 1)+podYAML("good", "b", 2))
	want["good/b"] = "open/open"
	p.healthy(1)
	p.judges(conn, "node-1", want)
}
