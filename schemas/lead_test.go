// SPDX-License-Identifier: Apache-2.0

package schemas

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
)

var (
	seal = &Seal{
		Key: digest[:8], Signature: append(append([]byte{}, v6...), v6...), Index: 1, Count: 3,
		Path: [][]byte{append(append([]byte{}, digest...), digest...)},
	}
	root = uint64(1 << 63)
)

// Messages of seals, leading, barriers, credentials and walks, as golden has those of the rest.
var goldenLead = map[string]proto.Message{
	"fact_sealed":        &Fact{Object: object, State: &Fact_Node{Node: &Node{Lost: true}}, Seal: seal},
	"fact_complete_said": &Fact{Object: object, State: &Fact_Complete{Complete: &Complete{Source: "watcher-0", Objects: 7, Epoch: 2}}},
	"delta_sealed":       &Delta{Epoch: 2, Layer: "cluster", From: 8, To: 9, DigestAfter: digest, StateSequence: 70, Seal: seal},
	"snapshot_sealed":    &Snapshot{Epoch: 2, Layer: "cluster", Revision: 9, Digest: digest, Chunks: 1, Seal: seal},
	"heartbeat_sealed":   &Heartbeat{Epoch: 2, Revision: 9, Sent: noon, StateSequence: 70, Seal: seal},
	"checkpoint_ids":     &Checkpoint{Epoch: 2, Revision: 9, LastIdentity: 70},
	"heartbeat_state": &Heartbeat{
		Epoch: 2, Revision: 9, StateSequence: 70, State: &Epoch{Epoch: 3, Holder: "watcher-0", Since: noon}, Digest: digest,
	},
	"heartbeat_stored":    &Heartbeat{Epoch: 2, Revision: 9, StateSequence: 70, StateStored: noon},
	"heartbeat_unchanged": &Heartbeat{Epoch: 2, Revision: 9, StateSequence: 70, UnchangedAt: []uint64{61, 70}},
	"delta_unchanged":     &Delta{Epoch: 2, Layer: "cluster", From: 8, To: 9, DigestAfter: digest, StateSequence: 70, UnchangedAt: []uint64{61, 64}},
	"checkpoint_hold":     &Checkpoint{Epoch: 2, Revision: 9, Hold: &Hold{Revision: 7, Seal: seal}},
	"status_hold":         &Status{Epoch: 2, Revision: 9, Hold: &Hold{Revision: 7, Changes: 3}},
	"status_epoch":        &Status{Epoch: 2, StateSequence: 70, StateEpoch: 3},
	"checkpoint_sealed":   &Checkpoint{Epoch: 2, Revision: 9, Committed: noon, StateSequence: 70, Seal: seal},
	"branches": &Branches{
		Epoch: 2, Layer: "cluster", Revision: 9, Digest: digest, Seal: seal,
		Branches: []*Branch{{Branch: 0x1, Digests: append(append([]byte{}, digest...), digest...)}, {Branch: 0x1a3, Rows: rows}},
	},
	"sync_request_walk":  &SyncRequest{Node: "node-a", Room: 4096, Walks: []*Walk{{Layer: "cluster", Branches: []uint64{0x1, 0x1a3}}, {Layer: "node.node-a", From: &root}}},
	"sync_branches":      &SyncReply{Content: &SyncReply_Branches{Branches: &Branches{Epoch: 2, Layer: "cluster"}}, More: true, Last: true},
	"sync_refused":       &SyncReply{Refused: "others are first", RetryAfterMillis: 1500, Last: true},
	"fact_numbered":      &Fact{Object: object, Number: 7},
	"checkpoint_bound":   &Checkpoint{Epoch: 2, Snapshots: 3, SnapshotsDigest: digest},
	"applied_checks":     &Applied{Node: "node-a", ChecksSeals: true},
	"status_checks":      &Status{ChecksSeals: true},
	"pulse":              &Pulse{Service: "compiler", Name: "compiler-0", Epoch: 2, Able: true, Resigns: true, Sent: noon, Revision: 9, Digest: digest},
	"seen_request":       &SeenRequest{Object: object},
	"seen_reply":         &SeenReply{StateSequence: 70, ResourceVersion: "4711", Unknown: true, Refused: "not leading"},
	"seen_reply_epoch":   &SeenReply{StateSequence: 70, StateEpoch: 3},
	"credential_request": &CredentialRequest{Node: "node-a", PublicKey: "UAAA"},
	"credential_renewal": &CredentialRequest{Node: "node-a", PublicKey: "UAAA", Token: "e30.e30.x"},
	"credential_reply":   &CredentialReply{Jwt: "e30", Expires: noon, Refused: "no such node"},
	"applied_external":   &Applied{Node: "node-a", External: &External{Device: "deltaplane0", Port: 8475, Masqueraded: "the port is taken"}},
	"applied_maglev":     &Applied{Node: "node-a", External: &External{MaglevSlots: 4093}},
	"applied_vni":        &Applied{Node: "node-a", External: &External{Device: "deltaplane0", Port: 8475, Vni: 0xde17}},
	"status_forwarding":  &Status{Forwarding: "dsr"},
	"applied_xdp":        &Applied{Node: "node-a", External: &External{Uplinks: []*Uplink{{Interface: "eth0", Xdp: "off", Reason: "no driver"}}}},
	"applied_as_before":  &Applied{Node: "node-a", AsBefore: true},
	"applied_latencies":  &Applied{Node: "node-a", LatencyMicros: []uint32{6000, 31_000}},
	"status_request":     &StatusRequest{Revision: 9},
	"status_fleet": &Status{
		LatencyP50: durationpb.New(1), LatencyP99: durationpb.New(2), NodesTotal: 9, NodesConverged: 4, NodesLost: 3,
		NodesUpdating: 2, NodesLacking: 1, StateSequence: 70, Maps: []*FullestMap{{Node: "node-a", Use: &MapUse{Name: "m", Entries: 1, Capacity: 2}}},
		Drops: map[string]uint64{"no_backend": 3}, Streams: []*Fault{{Kind: "stream_missing", Text: "APPLIED is gone", Stream: "APPLIED"}},
		Nodes: []*NodeStatus{{Node: "node-a", Lost: true, Updating: true, LackingSince: noon, Drifted: true}},
	},
}

func init() { maps.Copy(golden, goldenLead) }

// A field that no golden message has could change its meaning unseen.
func TestEachFieldIsInAGoldenMessage(t *testing.T) {
	set := map[protoreflect.FullName]bool{}
	for _, m := range golden {
		note(m.ProtoReflect(), set)
	}
	var missing []protoreflect.FullName
	protoregistry.GlobalFiles.RangeFilesByPackage("deltaplane.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				if name := fields.Get(j).FullName(); !set[name] {
					missing = append(missing, name)
				}
			}
		}
		return true
	})
	slices.Sort(missing)
	for _, name := range missing {
		t.Errorf("no golden message has %s: add one that has it and run go test ./schemas -update", name)
	}
}

// note notes the fields that a message has, at any depth.
func note(m protoreflect.Message, set map[protoreflect.FullName]bool) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		set[field.FullName()] = true
		switch {
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				note(value.List().Get(i).Message(), set)
			}
		default:
			note(value.Message(), set)
		}
		return true
	})
}
