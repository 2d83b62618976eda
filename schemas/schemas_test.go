// SPDX-License-Identifier: Apache-2.0

package schemas

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write golden messages that are not there yet; those that are there never change")

var (
	noon   = timestamppb.New(time.Date(2026, 11, 22, 12, 0, 0, 5_000_000, time.UTC))
	digest = []byte("0123456789abcdef")
	v4     = []byte{10, 96, 0, 1}
	v6     = append([]byte{0xfd}, make([]byte, 15)...)
	object = &ObjectRef{Kind: "EndpointSlice", Namespace: "shop", Name: "cart-x7k2p", Uid: "0c9d4f0a-6f4e-4a57-9c2e-6f0f8f2b1a3d", ResourceVersion: "4711"}
	cause  = &Cause{Object: object, Manager: "kube-controller-manager", TriggerTime: noon, Deleted: true}
	rows   = &Rows{
		Frontends: []*Frontend{{Key: &FrontendKey{Address: v4, Port: 80, Protocol: Protocol_PROTOCOL_TCP}, Set: 1, Kind: FrontendKind_FRONTEND_KIND_CLUSTER_IP}},
		Sets:      []*BackendSet{{Id: 1, Namespace: "shop", Service: "cart", Port: 80, Protocol: Protocol_PROTOCOL_TCP, Family: IPFamily_IP_FAMILY_IPV4, Scope: Scope_SCOPE_ALL}},
		Backends:  []*Backend{{Id: 2, Set: 1, Address: v4, Port: 8080, State: BackendState_BACKEND_STATE_TERMINATING}},
		Members:   []*Members{{Set: 1, Backends: []uint32{2, 300}}},
		Endpoints: []*Endpoint{{Address: v6, Pod: "shop/cart-0"}},
	}
	block    = &Prefix{Address: v4, Bits: 32}
	moreRows = &Rows{
		Frontends: []*Frontend{
			{Key: &FrontendKey{Address: make([]byte, 4), Port: 30080, Protocol: Protocol_PROTOCOL_TCP, Match: Match_MATCH_NODE_PORT}, Set: 1, Kind: FrontendKind_FRONTEND_KIND_NODE_PORT, InternalLocal: true, ExternalLocal: true},
			{Key: &FrontendKey{Address: v6, Port: 80, Protocol: Protocol_PROTOCOL_UDP}, Set: 1, Kind: FrontendKind_FRONTEND_KIND_LOAD_BALANCER, SourceRanges: true},
			{Key: &FrontendKey{Address: v4}, Kind: FrontendKind_FRONTEND_KIND_REFUSED},
		},
		Sets: []*BackendSet{
			{Id: 1, Namespace: "shop", Service: "cart", Port: 80, Protocol: Protocol_PROTOCOL_TCP, Family: IPFamily_IP_FAMILY_IPV4, Scope: Scope_SCOPE_ALL, Root: 1, NodeHints: true, ZoneHints: true, AffinitySeconds: 10800},
			{Id: 3, Namespace: "shop", Service: "cart", Port: 80, Protocol: Protocol_PROTOCOL_TCP, Family: IPFamily_IP_FAMILY_IPV4, Scope: Scope_SCOPE_LOCAL, Place: 1 << 63, Root: 1, Fallback: true},
		},
		Backends:     []*Backend{{Id: 2, Set: 1, Address: v4, Port: 8080, State: BackendState_BACKEND_STATE_ACTIVE, Place: 1 << 63}},
		Views:        []*View{{Key: &ViewKey{Set: 1, Scope: Scope_SCOPE_ZONE, Place: 7}, Target: 3}, {Key: &ViewKey{Set: 1, Scope: Scope_SCOPE_LOCAL}, Target: 3}},
		SourceRanges: []*SourceRange{{Set: 1, Prefix: block}},
		Networks:     []*Network{{Prefix: block, Kind: NetworkKind_NETWORK_KIND_SERVICES}},
		HealthChecks: []*HealthCheck{{Port: 32000, Namespace: "shop", Service: "cart"}},
		Selves:       []*Self{{Zone: "z1", Draining: true}},
	}
	position = &Position{Layer: "node.node-a", Epoch: 2, Revision: 9, Digest: digest}
)

// One message of each kind that travels, with every field set. Their bytes are in testdata and must decode to this for
// ever: a change there is a change of what is stored in clusters.
var golden = map[string]proto.Message{
	"fact_service": &Fact{Object: object, TriggerTime: noon, Manager: "kubectl", State: &Fact_Service{Service: &Service{
		ClusterIps: [][]byte{v4, v6}, Ports: []*ServicePort{{Name: "http", Protocol: Protocol_PROTOCOL_TCP, Port: 80}},
		PublishNotReadyAddresses: true, ProxyName: "other", Type: "ClusterIP", Created: noon,
	}}},
	"fact_endpointslice": &Fact{Object: object, State: &Fact_EndpointSlice{EndpointSlice: &EndpointSlice{
		Service: "cart", Family: IPFamily_IP_FAMILY_IPV6, Ports: []*EndpointPort{{Name: "http", Protocol: Protocol_PROTOCOL_UDP, Port: 8080}},
		Endpoints: []*SliceEndpoint{{Address: v6, Ready: true, Serving: true, Terminating: true, Node: "node-a", Zone: "z1"}},
	}}},
	"fact_pod": &Fact{Object: object, State: &Fact_Pod{Pod: &Pod{
		Node: "node-a", Addresses: [][]byte{v4}, HostNetwork: true, Finished: true, Labels: map[string]string{"app": "cart"},
		Ports: []*EndpointPort{{Name: "http", Protocol: Protocol_PROTOCOL_SCTP, Port: 8080}},
	}}},
	"fact_node": &Fact{Object: object, State: &Fact_Node{Node: &Node{Addresses: [][]byte{v4}, PodCidrs: []string{"10.8.0.0/24"}, Zone: "z1"}}},
	"fact_service_exposed": &Fact{Object: object, State: &Fact_Service{Service: &Service{
		Type: "LoadBalancer", Ports: []*ServicePort{{Protocol: Protocol_PROTOCOL_TCP, Port: 80, NodePort: 30080}},
		ExternalIps: [][]byte{v4}, LoadBalancerIps: [][]byte{v6}, SourceRanges: []string{"192.0.2.0/24"},
		InternalLocal: true, ExternalLocal: true, HealthCheckNodePort: 32000, AffinitySeconds: 10800,
	}}},
	"fact_endpointslice_hints": &Fact{Object: object, State: &Fact_EndpointSlice{EndpointSlice: &EndpointSlice{
		Endpoints: []*SliceEndpoint{{Address: v4, ZoneHints: []string{"z1"}, NodeHints: []string{"node-a"}}},
	}}},
	"fact_pod_host_port": &Fact{Object: object, State: &Fact_Pod{Pod: &Pod{
		HostPorts: []*HostPort{{Protocol: Protocol_PROTOCOL_UDP, HostPort: 53, ContainerPort: 5353, HostIp: v4}},
	}}},
	"fact_service_forwarding": &Fact{Object: object, State: &Fact_Service{Service: &Service{Forwarding: "dsr"}}},
	"fact_endpointslice_weight": &Fact{Object: object, State: &Fact_EndpointSlice{EndpointSlice: &EndpointSlice{
		Family: IPFamily_IP_FAMILY_IPV4, Weight: "50",
	}}},
	"fact_node_internal": &Fact{Object: object, State: &Fact_Node{Node: &Node{Addresses: [][]byte{v4, v6}, InternalIps: [][]byte{v6}}}},
	"snapshot_external": &Snapshot{Epoch: 2, Layer: "cluster", Revision: 9, Chunks: 1, Rows: &Rows{
		Frontends: []*Frontend{{
			Key: &FrontendKey{Address: v4, Port: 80, Protocol: Protocol_PROTOCOL_TCP}, Set: 1,
			Kind: FrontendKind_FRONTEND_KIND_LOAD_BALANCER, Forwarding: Forwarding_FORWARDING_DSR,
		}},
		Sets: []*BackendSet{{
			Id: 1, Namespace: "shop", Service: "cart", Port: 80, Protocol: Protocol_PROTOCOL_TCP, Family: IPFamily_IP_FAMILY_IPV4,
			Scope: Scope_SCOPE_ALL, Root: 1, External: true,
		}},
		Backends: []*Backend{{Id: 4, Set: 1, Address: v4, Port: 8080, State: BackendState_BACKEND_STATE_ACTIVE, Node: 0xfedcba98, Weight: 50}},
		Nodes:    []*NodeAddress{{Node: 0xfedcba98, V4: v4, V6: v6}},
	}},
	"delta_nodes":        &Delta{Epoch: 2, Layer: "cluster", From: 8, To: 9, DigestAfter: digest, Remove: &Keys{Nodes: []uint32{0xfedcba98}}},
	"fact_node_draining": &Fact{Object: object, State: &Fact_Node{Node: &Node{Draining: true}}},
	"snapshot_services":  &Snapshot{Epoch: 2, Layer: "node.node-a", Revision: 9, Digest: digest, Rows: moreRows, Chunk: 1, Chunks: 2},
	"snapshot_twin": &Snapshot{Epoch: 2, Layer: "node.node-a", Revision: 9, Chunks: 1, Rows: &Rows{
		Backends: []*Backend{{Id: 4, Set: 1, Address: v4, Port: 8080, State: BackendState_BACKEND_STATE_ACTIVE, Place: 1 << 63, Twin: 2}},
	}},
	"delta_services": &Delta{Epoch: 2, Layer: "node.node-a", From: 8, To: 9, DigestAfter: digest, Remove: &Keys{
		Views: []*ViewKey{moreRows.Views[0].Key}, SourceRanges: moreRows.SourceRanges, Networks: []*Prefix{block},
		HealthChecks: []uint32{32000}, Self: true,
	}},
	"fact_namespace": &Fact{Object: object, State: &Fact_Namespace{Namespace: &Namespace{Labels: map[string]string{"team": "shop"}}}},
	"fact_policy":    &Fact{Object: object, State: &Fact_NetworkPolicy{NetworkPolicy: &NetworkPolicy{SpecJson: []byte("{}")}}},
	"fact_cluster": &Fact{Object: object, State: &Fact_Cluster{Cluster: &Cluster{
		PodCidrs: []*Found{{Value: "10.8.0.0/16", Origin: "Nodes"}}, ServiceCidrs: []*Found{{Value: "10.96.0.0/16", Origin: "flag"}},
		ApiServers: []*Found{{Value: "192.0.2.1:6443", Origin: "EndpointSlice default/kubernetes"}},
	}}},
	"fact_complete": &Fact{Object: object, State: &Fact_Complete{Complete: &Complete{Source: "watcher-0", Objects: 7}}},
	"fact_gone":     &Fact{Object: object, TriggerTime: noon},
	"delta": &Delta{
		Epoch: 2, Layer: "cluster", From: 8, To: 9, Put: rows, DigestAfter: digest, Causes: []*Cause{cause}, CausesLeftOut: 3,
		Remove: &Keys{Frontends: []*FrontendKey{rows.Frontends[0].Key}, Sets: []uint32{4, 5}, Backends: []uint32{6}, Members: rows.Members, Endpoints: [][]byte{v4, v6}},
		Part:   1, Parts: 2, Committed: noon,
	},
	"snapshot":     &Snapshot{Epoch: 2, Layer: "node.node-a", Revision: 9, Digest: digest, Rows: rows, Chunk: 1, Chunks: 2},
	"epoch":        &Epoch{Epoch: 2, Holder: "compiler-0", Since: noon},
	"heartbeat":    &Heartbeat{Epoch: 2, Revision: 9, Positions: []*Position{position}, Sent: noon},
	"sync_request": &SyncRequest{Node: "node-a", Positions: []*Position{position}},
	"sync_reply":   &SyncReply{Content: &SyncReply_Delta{Delta: &Delta{Epoch: 2, To: 1, Parts: 1}}, Last: true, Refused: "busy", Sequence: 3},
	"sync_chunk":   &SyncReply{Content: &SyncReply_Snapshot{Snapshot: &Snapshot{Epoch: 2, Chunks: 1}}},
	"checkpoint": &Checkpoint{
		Epoch: 2, Revision: 9, Snapshots: 3, NextSet: 10, NextBackend: 11, Committed: noon,
		Freed: []*FreedId{{Id: &FreedId_Set{Set: 4}, Freed: noon}, {Id: &FreedId_Backend{Backend: 5}}},
	},
	"applied": &Applied{
		Node: "node-a", Positions: []*Position{position}, Sent: noon, MapsKind: "kernel", Drops: map[string]uint64{"no_backend": 3},
		Deltas: []*AppliedDelta{{Layer: "cluster", Epoch: 2, Revision: 9, Applied: noon, Latency: durationpb.New(7 * time.Millisecond), Writes: 4, Bytes: 199}},
		Faults: []*Fault{{Kind: "capacity", Text: "backends_v1 is full", Since: noon, Layer: "cluster", Revision: 9}},
		Maps:   []*MapUse{{Name: "backends_v1", Entries: 5, Capacity: 10}},
	},
	"event": &Event{
		Severity: Severity_SEVERITY_WARNING, Service: "programmer", Node: "node-a", Kind: "drop", Text: "refused", Object: object, Happened: noon,
		Drop: &Drop{Reason: "no_backend", Protocol: Protocol_PROTOCOL_TCP, Source: v4, Destination: v6, SourcePort: 40000, DestinationPort: 80, Service: "shop/cart:80", Via: "socket"},
	},
	"status": &Status{
		Epoch: 2, Revision: 9, Committed: noon, Causes: []*Cause{cause}, Leader: "compiler-0", Rows: 7,
		Nodes:    []*NodeStatus{{Node: "node-a", Applied: &Applied{Node: "node-a"}, Converged: true, Behind: 1, Reason: "late", LatencyP50: durationpb.New(1), LatencyP99: durationpb.New(2)}},
		SetAside: []*SetAside{{Object: object, Reason: "bad"}}, Cluster: &Cluster{},
		Held: &HeldDeletions{Id: "h1", Deletions: 5, Objects: 9, Since: noon},
	},
	"approve_request":  &ApproveRequest{Id: "h1"},
	"approve_reply":    &ApproveReply{Approved: true, Text: "5 deletions go ahead", Held: &HeldDeletions{Id: "h2"}, SetAside: []*SetAside{{Reason: "bad"}}},
	"hold":             &Hold{Epoch: 2, Revision: 7, RolledBack: 9, By: "ann@desk", Since: noon, StateSequence: 40, Over: true, Changes: 3},
	"rollback_request": &RollbackRequest{Revision: 7, By: "ann@desk", DryRun: true},
	"rollback_reply":   &RollbackReply{Done: true, Text: "all is as at revision 7", Revision: 10, Layers: 2, Rows: 12},
	"resume_request":   &ResumeRequest{By: "bob@desk"},
	"resume_reply":     &ResumeReply{Done: true, Text: "all is compiled anew"},
	"dump_request":     &DumpRequest{Node: "node-a"},
	"dump_reply":       &DumpReply{Rows: rows, Positions: []*Position{position}, Last: true, Sequence: 1, Refused: "no", Maps: []*MapUse{{Name: "m"}}},
}

func init() { maps.Copy(golden, goldenPolicy) }

func TestGoldenMessagesDecodeForEver(t *testing.T) {
	for name, want := range golden {
		path := filepath.Join("testdata", name+".pb")
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) && *update {
			if data, err = (proto.MarshalOptions{Deterministic: true}).Marshal(want); err == nil {
				err = os.WriteFile(path, data, 0o644)
			}
		}
		if err != nil {
			t.Errorf("%v; a new kind of message gets its bytes by go test ./schemas -update", err)
			continue
		}
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(data, got); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s no longer means what it did (-then +now):\n%s", path, diff)
		}
		if len(got.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%s has fields that are unknown now: %s", path, prototext.Format(got))
		}
	}
}

func TestEveryGoldenFileIsTested(t *testing.T) {
	files, err := filepath.Glob("testdata/*.pb")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if golden[strings.TrimSuffix(filepath.Base(f), ".pb")] == nil {
			t.Errorf("%s decodes to nothing that is known", f)
		}
	}
}

func TestSubjects(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{StateSubject("Service", "shop", "cart"), "deltaplane.v1.state.service.shop.cart"},
		{StateSubject("Node", "", "node-a"), "deltaplane.v1.state.node._.node-a"},
		{StateSubject("Node", "", "ip-10-0-0-1.eu.example"), "deltaplane.v1.state.node._._D5O2QC9G5KO2QC1D64N6AT9ECLS62RBGDHIG"},
		{DeltaSubject("cluster"), "deltaplane.v1.delta.cluster"},
		{DeltaSubject("node.node-a"), "deltaplane.v1.delta.node.node-a"},
		{ApplySubject("cluster"), "deltaplane.v1.apply.cluster"},
		{ApplySubject("node.a.b"), "deltaplane.v1.apply.node._C4N64"},
		{AppliedSubject("node-a"), "deltaplane.v1.applied.node-a"},
		{SyncSubject("node-a"), "deltaplane.v1.sync.node-a"},
		{ActualSubject("node-a"), "deltaplane.v1.actual.node-a"},
		{FlowsSubject("node-a"), "deltaplane.v1.flows.node-a"},
		{PulseSubject("compiler"), "deltaplane.v1.pulse.compiler"},
		{CredentialSubject("node.a"), "deltaplane.v1.credential._DPNM8P9EC4"},
		{EventSubject("programmer", "node-a"), "deltaplane.v1.event.programmer.node-a"},
		{EventSubject("watcher", ""), "deltaplane.v1.event.watcher._"},
		{InboxPrefix(User("programmer node-a")), "_INBOX._E1P6UPRIC5MMQPBI41N6UP355LGG"},
	} {
		if test.got != test.want {
			t.Errorf("got  %s\nwant %s", test.got, test.want)
		}
	}
}

// A stream must catch its own subjects and no other's, and what nodes act on must be in no stream.
func TestEachSubjectIsInTheStreamThatItIsMeantFor(t *testing.T) {
	for subject, want := range map[string]string{
		StateSubject("Pod", "shop", "cart-0.1"): "STATE", SubjectStateEpoch: "STATE", DeltaSubject("node.a.b"): "DELTA",
		SubjectEpoch: "DELTA", SubjectCheckpoint: "DELTA", AppliedSubject("a.b"): "APPLIED", EventSubject("watcher", ""): "EVENTS",
		ApplySubject("cluster"): "", SubjectHeartbeat: "", SyncSubject("a"): "", ActualSubject("a"): "", FlowsSubject("a"): "", SubjectStatus: "",
	} {
		var got strings.Builder
		for _, s := range Streams {
			for _, pattern := range s.Subjects {
				if matches(pattern, subject) {
					got.WriteString(s.Name)
				}
			}
		}
		if got.String() != want {
			t.Errorf("%s is in stream %q, want %q", subject, got.String(), want)
		}
	}
}

func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

func TestTokensAreUniqueAndComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[_a-zA-Z0-9.*> -]{0,12}`))
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		subject := AppliedSubject(a)
		if (a == b) != (subject == AppliedSubject(b)) {
			t.Fatalf("%q and %q: %s", a, b, subject)
		}
		last := subject[strings.LastIndexByte(subject, '.')+1:]
		if last == "" || strings.ContainsAny(last, " *>\t\r\n\x00") || strings.Count(subject, ".") != 3 {
			t.Fatalf("%q makes no subject: %q", a, subject)
		}
		if back, err := NodeOfSubject(subject); err != nil || back != a {
			t.Fatalf("%q came back as %q, %v", a, back, err)
		}
	})
}

func TestObjectsComeBackFromTheirSubjects(t *testing.T) {
	for _, want := range []*ObjectRef{
		{Kind: "Service", Namespace: "shop", Name: "cart"},
		{Kind: "Node", Name: "ip-10-0-0-1.eu"},
		{Kind: "EndpointSlice", Namespace: "a_b", Name: "_"},
		{Kind: "ClusterNetworkPolicy", Name: "x"},
		{Kind: "Complete", Name: "state"},
	} {
		got, err := ObjectOfSubject(StateSubject(want.GetKind(), want.GetNamespace(), want.GetName()))
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("got %v (%v), want %v", got, err, want)
		}
	}
	for _, subject := range []string{
		"", SubjectStateEpoch, SubjectEpoch, StateSubject("Strange", "a", "b"), StateSubject("Service", "a", "b") + ".c",
		prefix + "state.Service.a.b", prefix + "state.service.a.b_", prefix + "state.service.a._1", prefix + "state.service.a",
		StateSubject("Service", "a", "\xff"),
	} {
		if got, err := ObjectOfSubject(subject); err == nil {
			t.Errorf("subject %q is taken for that of %v", subject, got)
		}
	}
}

func TestForeignTokenIsRefused(t *testing.T) {
	_, err := NodeOfSubject("deltaplane.v1.applied._!")
	if err == nil || !strings.Contains(err.Error(), `subject "deltaplane.v1.applied._!": token "_!" is not a name that deltaplane encoded`) {
		t.Errorf("got %v", err)
	}
}

func TestStreamsFitASmallMachine(t *testing.T) {
	var sum int64
	for _, s := range Streams {
		sum += s.MaxBytes
		if s.Description == "" || s.MaxBytes == 0 {
			t.Errorf("stream %s has no description or no bound", s.Name)
		}
	}
	if sum > 4<<30 {
		t.Errorf("the streams reserve %d bytes, more than 4 GiB", sum)
	}
}

func TestAnEventsSubjectSaysWhoSpeaks(t *testing.T) {
	for _, want := range [][2]string{{"watcher", ""}, {"programmer", "node-a"}, {"programmer", "ip-10-0-0-1.example"}} {
		if service, node, err := SpeakerOfEvent(EventSubject(want[0], want[1])); err != nil || service != want[0] || node != want[1] {
			t.Errorf("got %q %q %v, want %q", service, node, err, want)
		}
	}
	if _, _, err := SpeakerOfEvent(AppliedSubject("a")); err == nil {
		t.Error("a report's subject is of no event")
	}
}
