// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/watcher/core"
)

// folder is a folder with files and a reader on it.
type folder struct {
	t      *testing.T
	path   string
	reader *reader
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	path := t.TempDir()
	return &folder{t, path, newReader([]string{path})}
}

func (f *folder) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.path, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.path, name)); err != nil {
		f.t.Fatal(err)
	}
}

// expect reads the folder and compares the list: "Pod a/p" is a fact, "!Pod a/p" is set aside, "incomplete" deletes
// nothing. It returns the list.
func (f *folder) expect(want ...string) core.List {
	f.t.Helper()
	list, changed := f.reader.read()
	if !changed {
		f.t.Fatal("nothing has changed")
	}
	if diff := cmp.Diff(want, f.words(list)); diff != "" {
		f.t.Fatalf("list (-want +got):\n%s", diff)
	}
	return list
}

func (f *folder) words(list core.List) (words []string) {
	for _, fact := range list.Facts {
		words = append(words, core.KeyOf(fact.GetObject()).String())
	}
	for _, r := range list.Refused {
		words = append(words, "!"+strings.ReplaceAll(core.KeyOf(r.Object).String(), f.path+"/", ""))
	}
	if list.Incomplete != "" {
		words = append(words, "incomplete")
	}
	slices.Sort(words)
	return words
}

const (
	service = `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: cart}, ports: [{port: 80, targetPort: http}]}
`
	pods = `
apiVersion: v1
kind: Pod
metadata: {name: cart-0, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-a, containers: [{name: c, image: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-a, containers: [{name: c, image: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.1.0.2}]}
`
	// derived is the slice that manifest makes of these.
	derived   = "EndpointSlice shop/cart-ipv4-4527bc-0"
	namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
	broken    = "kind: [Pod\n"
)

// endpoints returns the addresses in the one slice of a list.
func endpoints(t *testing.T, list core.List) (addresses []string) {
	t.Helper()
	var slice *schemas.EndpointSlice
	for _, fact := range list.Facts {
		if s := fact.GetEndpointSlice(); s != nil {
			slice = s
		}
	}
	for _, e := range slice.GetEndpoints() {
		addresses = append(addresses, string(rune('0'+e.GetAddress()[3])))
	}
	slices.Sort(addresses)
	return addresses
}

func TestEveryReadingIsACompleteList(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", namespace)
	f.write("deep/b.yml", pods)
	f.write("notes.txt", "no YAML")
	f.write(".hidden/c.yaml", service)
	f.expect("Namespace shop", "Pod shop/cart-0", "Pod shop/cart-1")
	if _, changed := f.reader.read(); changed {
		t.Error("changed though no file has")
	}
	f.remove("deep/b.yml")
	f.expect("Namespace shop")
	f.remove("a.yaml")
	f.expect()
}

func TestServiceCIDRsSayWhatTheClusterIs(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", namespace)
	f.expect("Namespace shop")
	f.write("ranges.yaml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16, 'fd00:10:96::/112']}\n")
	list := f.expect("Cluster cluster", "Namespace shop")
	var got []string
	for _, found := range list.Facts[len(list.Facts)-1].GetCluster().GetServiceCidrs() {
		got = append(got, found.GetValue()+" from "+found.GetOrigin())
	}
	want := []string{"10.96.0.0/16 from ServiceCIDR kubernetes, spec.cidrs", "fd00:10:96::/112 from ServiceCIDR kubernetes, spec.cidrs"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("service CIDRs (-want +got):\n%s", diff)
	}
	f.write("ranges.yaml", broken)
	f.expect("!Document ranges.yaml: document 1", "Cluster cluster", "Namespace shop")
	f.remove("ranges.yaml")
	f.expect("Namespace shop")
}

func TestSlicesAreDerivedUnlessGiven(t *testing.T) {
	f := newFolder(t)
	f.write("service.yaml", service)
	f.write("pods.yaml", pods)
	list := f.expect(derived, "Pod shop/cart-0", "Pod shop/cart-1", "Service shop/cart")
	slice := list.Facts[len(list.Facts)-1].GetEndpointSlice()
	if slice.GetService() != "cart" || slice.GetPorts()[0].GetPort() != 8080 || slice.GetEndpoints()[0].GetNode() != "node-a" || !slice.GetEndpoints()[0].GetReady() {
		t.Errorf("slice: %v", slice)
	}
	f.write("slice.yaml", `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: own, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
endpoints: []
`)
	f.expect("EndpointSlice shop/own", "Pod shop/cart-0", "Pod shop/cart-1", "Service shop/cart")
}

func TestAMalformedDocumentIsSetAsideAndNothingIsDeletedForIt(t *testing.T) {
	f := newFolder(t)
	f.write("service.yaml", service)
	f.write("pods.yaml", pods)
	whole := []string{derived, "Pod shop/cart-0", "Pod shop/cart-1", "Service shop/cart"}
	f.expect(whole...)

	f.write("pods.yaml", broken)
	list := f.expect(append([]string{"!Document pods.yaml: document 1"}, whole...)...)
	if got := endpoints(t, list); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("endpoints %v", got)
	}
	if got, want := list.Refused[0].Reason, f.path+"/pods.yaml: document 1: this is no YAML: "; !strings.HasPrefix(got, want) {
		t.Errorf("reason %q, want %q…", got, want)
	}

	f.write("pods.yaml", strings.Replace(pods, "cart-0", "cart-9", 1)+"---\n"+broken)
	f.expect("!Document pods.yaml: document 3", whole[0], "Pod shop/cart-0", "Pod shop/cart-1", "Pod shop/cart-9", "Service shop/cart")

	f.write("pods.yaml", strings.Replace(pods, "cart-0", "cart-9", 1))
	f.expect(whole[0], "Pod shop/cart-1", "Pod shop/cart-9", "Service shop/cart")
}

func TestAnObjectWithABadFieldIsSetAsideByItsName(t *testing.T) {
	f := newFolder(t)
	f.write("service.yaml", service)
	f.write("pods.yaml", pods)
	f.reader.read()
	f.write("pods.yaml", strings.Replace(pods, "nodeName: node-a", "nodeNam: node-a", 1))
	list := f.expect("!Pod shop/cart-0", derived, "Pod shop/cart-1", "Service shop/cart")
	if got, want := list.Refused[0].Reason, f.path+`/pods.yaml: document 1: Pod shop/cart-0: unknown field "spec.nodeNam"`; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	if got := endpoints(t, list); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("endpoints %v: the spoilt pod's should stay", got)
	}
}

func TestAFileThatWasNeverWholeMakesTheListIncomplete(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", namespace+"---\n"+broken)
	f.expect("!Document a.yaml: document 2", "Namespace shop", "incomplete")
	f.write("a.yaml", namespace)
	f.expect("Namespace shop")
}

func TestAnObjectInTwoFilesCountsWhereItIsFirst(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", namespace+"---\n"+namespace)
	f.write("b.yaml", namespace)
	list := f.expect("!Document a.yaml: Namespace shop", "!Document b.yaml: Namespace shop", "Namespace shop")
	var reasons []string
	for _, r := range list.Refused {
		reasons = append(reasons, strings.ReplaceAll(r.Reason, f.path+"/", ""))
	}
	slices.Sort(reasons)
	want := []string{
		"a.yaml: document 2: Namespace shop: Namespace shop is here twice: the first, in a.yaml, counts",
		"b.yaml: Namespace shop is in a.yaml already; that one counts",
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

func TestAFolderThatIsGoneDeletesNothing(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", namespace)
	f.expect("Namespace shop")
	if err := os.RemoveAll(f.path); err != nil {
		t.Fatal(err)
	}
	list := f.expect("!Document "+f.path, "incomplete")
	if want := "the folder can't be read: read manifests: stat " + f.path + ": no such file or directory"; list.Incomplete != want {
		t.Errorf("incomplete because %q, want %q", list.Incomplete, want)
	}
}

func TestAFileThatCantBeReadDeletesNothing(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", namespace)
	f.expect("Namespace shop")
	f.remove("a.yaml")
	if err := os.Symlink("nowhere", filepath.Join(f.path, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f.expect("!Document a.yaml", "Namespace shop")
}

// Policy row 9: a policy with a field that nobody knows is closed, not left out.
func TestAPolicyThatCantBeReadIsClosed(t *testing.T) {
	f := newFolder(t)
	f.write("p.yaml", `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec: {podSelector: {matchLabels: {app: cart}, matchLabel: {a: b}}, ingres: [{}], policyTypes: Egress}
`)
	list := f.expect("!NetworkPolicy shop/p")
	got := list.Refused[0].Closed.GetNetworkPolicy()
	want := &schemas.NetworkPolicy{
		Pods: &schemas.Selector{Terms: []*schemas.SelectorTerm{
			{Key: "app", Operator: schemas.SelectorOperator_SELECTOR_OPERATOR_IN, Values: []string{"cart"}},
		}},
		IsolatesIngress: true, IsolatesEgress: true, Refused: "spec.policyTypes: a string stands where a []v1.PolicyType belongs",
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("what stands for it (-want +got):\n%s", diff)
	}
}
