// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is a core with a log and one node that apply what it says, in virtual time.
type world struct {
	t    tester
	now  time.Time
	core *Core
	log  []Record
	// slow keeps the log's answer back.
	slow bool
	owed int
	// sequence is the newest of STATE.
	sequence uint64
	nodes    map[model.Layer]*replica

	published []Message
	answers   []Answer
	events    []*schemas.Event
	commits   []Commit
	mismatch  *Mismatch
	outranked *Outranked
	// The biggest batches.
	biggest, biggestBytes int
}

// replica is one layer as a node holds it.
type replica struct {
	rows  *model.Tables
	at    model.Position
	parts wire.Assembler
}

// signer seals what a world's core says, and trust is what its log and nodes check by.
var (
	signer = seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	trust  = seal.NewTrust(signer.Public())
)

func newWorld(t tester, o Options) *world {
	o.Signer = signer
	w := &world{t: t, now: start, nodes: map[model.Layer]*replica{}}
	w.core = New(o, NewFold(o.Quarantine), 1, w.now)
	return w
}

// restart throws the core away and begins anew from the log, in a higher epoch.
func (w *world) restart(o Options) {
	w.t.Helper()
	o.Signer = signer
	w.log = append(w.log, Record{schemas.SubjectEpoch, marshal(&schemas.Epoch{Epoch: uint64(w.core.epoch) + 1})})
	w.core = New(o, w.fold(), w.core.epoch+1, w.now)
	w.owed = 0
}

func (w *world) fold() *Fold {
	w.t.Helper()
	f := NewFold(w.core.o.Quarantine)
	for _, r := range w.log {
		if domain, sealed := DomainOf(r.Subject, r.Data); sealed {
			if _, err := trust.Open(domain, r.Data); err != nil {
				w.t.Fatalf("record on %s: %v", r.Subject, err)
			}
		}
		if err := f.Add(r.Subject, r.Data); err != nil {
			w.t.Fatalf("fold: %v", err)
		}
	}
	return f
}

func (w *world) facts(facts ...*schemas.Fact) {
	w.sequence += uint64(len(facts))
	w.do(w.core.Facts(w.now, w.sequence, facts...))
}

func (w *world) ready() {
	w.do(w.core.CaughtUp(w.now))
	w.facts(complete())
}

// pass lets time pass, with a tick whenever the core wants one.
func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for {
		next := w.core.Next()
		if next.After(end) {
			w.now = end
			return
		}
		if next.After(w.now) {
			w.now = next
		}
		w.do(w.core.Tick(w.now))
		if w.slow && !w.core.Next().After(w.now) {
			w.now = w.now.Add(time.Millisecond)
		}
	}
}

func (w *world) do(out Output) {
	w.t.Helper()
	for {
		w.published = append(w.published, out.Publish...)
		w.answers = append(w.answers, out.Answers...)
		w.events = append(w.events, out.Events...)
		w.commits = append(w.commits, out.Commits...)
		if out.Mismatch != nil {
			w.mismatch = out.Mismatch
		}
		if out.Outranked != nil {
			w.outranked = out.Outranked
		}
		for _, m := range out.Publish {
			w.hear(m)
		}
		if out.Append == nil {
			return
		}
		bytes := 0
		for _, r := range out.Append {
			bytes += len(r.Data)
		}
		w.biggest, w.biggestBytes = max(w.biggest, len(out.Append)), max(w.biggestBytes, bytes)
		w.log = append(w.log, out.Append...)
		if w.slow {
			w.owed++
			return
		}
		out = w.core.Appended(w.now)
	}
}

// settle gives the log's answers that were kept back.
func (w *world) settle() {
	w.slow = false
	for w.owed > 0 {
		w.owed--
		w.do(w.core.Appended(w.now))
	}
}

// hear applies a delta as a node would, checking what deltas promise.
func (w *world) hear(m Message) {
	w.t.Helper()
	if m.Subject == schemas.SubjectHeartbeat {
		if _, err := trust.Open(seal.Heartbeat, m.Data); err != nil {
			w.t.Fatalf("heartbeat: %v", err)
		}
		return
	}
	body, err := trust.Open(seal.Delta, m.Data)
	if err != nil {
		w.t.Fatalf("message on %s: %v", m.Subject, err)
	}
	part, err := wire.DecodeDelta(body)
	if err != nil {
		w.t.Fatalf("message on %s: %v", m.Subject, err)
	}
	if want := schemas.ApplySubject(part.Layer.String()); m.Subject != want {
		w.t.Fatalf("delta of layer %s on %s, want %s", part.Layer, m.Subject, want)
	}
	r := w.nodes[part.Layer]
	if r == nil {
		r = &replica{rows: model.NewTables()}
		w.nodes[part.Layer] = r
	}
	d, whole, err := r.parts.Add(part)
	if err != nil {
		w.t.Fatalf("parts: %v", err)
	}
	if !whole {
		return
	}
	if d.From != r.at.Revision {
		w.t.Fatalf("delta of layer %s from revision %d, the node is at %d", d.Layer, d.From, r.at.Revision)
	}
	digest := r.rows.Apply(&d.Change, r.at.Digest)
	if digest != d.DigestAfter {
		w.t.Fatalf("delta of layer %s to revision %d: digest %s, want %s", d.Layer, d.To, digest, d.DigestAfter)
	}
	r.at = model.Position{Epoch: d.Epoch, Revision: d.To, Digest: digest}
	if lacking := policyLacks(r.rows); lacking != "" {
		w.t.Fatalf("after revision %d layer %s has %s", d.To, d.Layer, lacking)
	}
}

// policyLacks says what of policy points at nothing.
func policyLacks(t *model.Tables) string {
	for _, e := range t.Endpoints {
		for _, set := range []model.RuleSetID{e.Ingress, e.Egress} {
			if set == 0 {
				continue
			}
			if _, held := t.RuleSets[set]; !held {
				return fmt.Sprintf("the endpoint %+v without its rule set", e)
			}
			if _, held := t.Verdicts[model.VerdictKey{RuleSet: set}]; !held {
				return fmt.Sprintf("the endpoint %+v without a verdict on everyone else", e)
			}
		}
	}
	tables := map[model.PortsID]bool{0: true}
	for _, p := range t.PortVerdicts {
		tables[p.Ports] = true
		if _, held := t.Rules[p.Rule]; p.Rule != 0 && !held {
			return fmt.Sprintf("%+v without its rule", p)
		}
	}
	for _, v := range t.Verdicts {
		if _, held := t.Rules[v.Rule]; (v.Rule != 0 && !held) || !tables[v.Ports] {
			return fmt.Sprintf("%+v without its rule or ports", v)
		}
	}
	return ""
}

// checkConverged holds the nodes' rows, and the log's, to what compiling everything gives.
func (w *world) checkConverged() {
	w.t.Helper()
	full := compile.FullFrom(w.core.Snapshot(), w.core.ids, w.core.o.Settings, w.core.tables())
	folded := w.fold()
	layers := map[model.Layer]bool{model.ClusterLayer: true}
	for l := range full.Layers {
		layers[l] = true
	}
	for l := range w.nodes {
		layers[l] = true
	}
	for l := range layers {
		var want, node, log model.Digest
		if full.Layers[l] != nil {
			want = full.Layers[l].Digest()
		}
		if w.nodes[l] != nil {
			node = w.nodes[l].at.Digest
		}
		if folded.layers[l] != nil {
			log = folded.layers[l].at.Digest
		}
		if node != want || log != want {
			w.t.Fatalf("layer %s: nodes have %s, the log %s, it should be %s", l, node, log, want)
		}
	}
}

// heard returns the deltas published on a layer since the last call of forget.
func (w *world) heard(l model.Layer) (list []*schemas.Delta) {
	w.t.Helper()
	for _, m := range w.published {
		if m.Subject == schemas.ApplySubject(l.String()) {
			var d schemas.Delta
			if err := proto.Unmarshal(m.Data, &d); err != nil {
				w.t.Fatalf("%v", err)
			}
			list = append(list, &d)
		}
	}
	return list
}

func (w *world) forget() {
	w.published, w.answers, w.events, w.commits = nil, nil, nil, nil
}

// replies reads all messages of the only answer there is.
func (w *world) replies() (list []*schemas.SyncReply) {
	w.t.Helper()
	if len(w.answers) != 1 {
		w.t.Fatalf("%d answers, want 1", len(w.answers))
	}
	for data := range w.answers[0].Messages() {
		m := &schemas.SyncReply{}
		if err := proto.Unmarshal(data, m); err != nil {
			w.t.Fatalf("%v", err)
		}
		if m.GetSequence() != uint32(len(list)) {
			w.t.Fatalf("reply %d has sequence %d", len(list), m.GetSequence())
		}
		list = append(list, m)
	}
	for i, m := range list {
		if m.GetLast() != (i == len(list)-1) {
			w.t.Fatalf("reply %d of %d: last is %v", i, len(list), m.GetLast())
		}
	}
	w.answers = nil
	return list
}

func (w *world) sync(node string, layers ...model.Layer) {
	m := &schemas.SyncRequest{Node: node}
	for _, l := range layers {
		p := model.Position{}
		if r := w.nodes[l]; r != nil {
			p = r.at
		}
		m.Positions = append(m.Positions, wire.PositionToProto(l, p))
	}
	w.do(w.core.Sync(w.now, nil, marshal(m)))
}

func marshal(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

func complete() *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Complete", Name: "test"}, State: &schemas.Fact_Complete{Complete: &schemas.Complete{}},
	}
}

func serviceFact(i int) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Service", Namespace: "shop", Name: fmt.Sprint("s", i), Uid: "uid", ResourceVersion: "1"},
		State: &schemas.Fact_Service{Service: &schemas.Service{
			ClusterIps: [][]byte{{10, 96, byte(i >> 8), byte(i)}},
			Ports:      []*schemas.ServicePort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 80}},
		}},
	}
}

// sliceFact is the only slice of Service i, with as many endpoints, numbered from first.
func sliceFact(i, first, endpoints int, trigger time.Time) *schemas.Fact {
	m := &schemas.EndpointSlice{
		Service: fmt.Sprint("s", i), Family: schemas.IPFamily_IP_FAMILY_IPV4,
		Ports: []*schemas.EndpointPort{{Protocol: schemas.Protocol_PROTOCOL_TCP, Port: 8080}},
	}
	for e := first; e < first+endpoints; e++ {
		m.Endpoints = append(m.Endpoints, &schemas.SliceEndpoint{
			Address: []byte{10, byte(i), byte(e >> 8), byte(e)}, Ready: true, Serving: true,
		})
	}
	return &schemas.Fact{
		Object: &schemas.ObjectRef{
			Kind: "EndpointSlice", Namespace: "shop", Name: fmt.Sprint("s", i, "-abcde"),
			Uid: "6c4a3f0e-8f0f-4b8e-9f4e-0d6c2f0a9b1c", ResourceVersion: "1234567",
		},
		Manager: "kube-controller-manager", TriggerTime: timestamppb.New(trigger), State: &schemas.Fact_EndpointSlice{EndpointSlice: m},
	}
}

func podFact(name, node, addr string) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Pod", Namespace: "shop", Name: name},
		State:  &schemas.Fact_Pod{Pod: &schemas.Pod{Node: node, Addresses: [][]byte{netip.MustParseAddr(addr).AsSlice()}}},
	}
}

// openService is Service i with a NodePort, an address of a load balancer, a source range and a health check.
func openService(i int, local bool) *schemas.Fact {
	f := serviceFact(i)
	s := f.GetService()
	s.Type, s.InternalLocal, s.ExternalLocal = "LoadBalancer", local, local
	s.Ports[0].NodePort, s.HealthCheckNodePort = uint32(30000+i%3), uint32(32000+i%3)
	s.LoadBalancerIps, s.SourceRanges = [][]byte{{192, 0, 2, byte(i % 2)}}, []string{"203.0.113.0/24"}
	return f
}

// placed puts the endpoints of a slice onto nodes n0 to n2, with hints for these and for zones.
func placed(slice *schemas.Fact) *schemas.Fact {
	for i, e := range slice.GetEndpointSlice().GetEndpoints() {
		e.Node = fmt.Sprint("n", i%3)
		e.NodeHints, e.ZoneHints = []string{e.Node}, []string{fmt.Sprint("z", i%2)}
	}
	return slice
}

func nodeFact(name, zone string) *schemas.Fact {
	return &schemas.Fact{
		Object: &schemas.ObjectRef{Kind: "Node", Name: name},
		State:  &schemas.Fact_Node{Node: &schemas.Node{Zone: zone, PodCidrs: []string{"10.200.0.0/24"}}},
	}
}

func hostPortFact(name, node string, port uint32) *schemas.Fact {
	f := podFact(name, node, "10.200.0.9")
	f.GetPod().HostPorts = []*schemas.HostPort{{Protocol: schemas.Protocol_PROTOCOL_TCP, HostPort: port, ContainerPort: 80}}
	return f
}

func goneFact(f *schemas.Fact) *schemas.Fact { return &schemas.Fact{Object: f.GetObject()} }

func setIDs(c *Core) map[model.SetKey]model.SetID {
	all := map[model.SetKey]model.SetID{}
	for id, s := range c.rows(model.ClusterLayer).Sets {
		all[s.SetKey] = id
	}
	return all
}

// shop fills a world with services of some endpoints each, and pods on two nodes.
func shop(t *testing.T, o Options, services, endpoints int) *world {
	t.Helper()
	w := newWorld(t, o)
	w.facts(shopFacts(services, endpoints)...)
	w.ready()
	w.pass(time.Second)
	w.checkConverged()
	return w
}

func shopFacts(services, endpoints int) []*schemas.Fact {
	facts := []*schemas.Fact{podFact("a", "n1", "10.200.0.1"), podFact("b", "n2", "10.200.1.1")}
	for i := range services {
		facts = append(facts, serviceFact(i), sliceFact(i, 0, endpoints, start))
	}
	return facts
}

func layerNames(w *world) []string {
	var names []string
	for l := range maps.Keys(w.nodes) {
		names = append(names, l.String())
	}
	slices.Sort(names)
	return names
}

func mustUnmarshal(t tester, data []byte, m proto.Message) {
	t.Helper()
	if err := proto.Unmarshal(data, m); err != nil {
		t.Fatalf("%v", err)
	}
}
