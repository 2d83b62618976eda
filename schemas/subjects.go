// SPDX-License-Identifier: Apache-2.0

package schemas

import (
	"encoding/base32"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Every subject starts with this; a change of meaning gets a new version.
const prefix = "deltaplane.v1."

// The subjects that are one fixed name. Those with a variable part are built by the functions below.
const (
	// SubjectHeartbeat carries a Heartbeat once a second, from the leading compiler to all nodes. Core NATS only.
	SubjectHeartbeat = prefix + "heartbeat"
	// SubjectEpoch carries an Epoch; the newest one fences DELTA. It is kept in DELTA.
	SubjectEpoch = prefix + "delta.epoch"
	// SubjectCheckpoint carries a Checkpoint and its Snapshots. It is kept in DELTA.
	SubjectCheckpoint = prefix + "delta.checkpoint"
	// SubjectStateEpoch carries an Epoch; the newest one fences STATE. It is kept in STATE.
	SubjectStateEpoch = prefix + "stateepoch"
	// SubjectStatus takes a StatusRequest and is answered with a Status by the leading compiler.
	SubjectStatus = prefix + "status"
	// SubjectDesired takes a DumpRequest and is answered with DumpReplies by the leading compiler.
	SubjectDesired = prefix + "desired"
	// SubjectApprove takes an ApproveRequest and is answered with an ApproveReply by the leading watcher.
	SubjectApprove = prefix + "approve"
	// SubjectSeen takes a SeenRequest and is answered with a SeenReply by the leading watcher.
	SubjectSeen = prefix + "seen"
	// SubjectHold carries a Hold. It is kept in DELTA.
	SubjectHold = prefix + "delta.hold"
	// SubjectRollback takes a RollbackRequest and is answered with a RollbackReply by the leading compiler.
	SubjectRollback = prefix + "rollback"
	// SubjectResume takes a ResumeRequest and is answered with a ResumeReply by the leading compiler.
	SubjectResume = prefix + "resume"
	// SubjectAllPulses matches every Pulse.
	SubjectAllPulses = prefix + "pulse.*"
	// SubjectAllCredentials matches every CredentialRequest.
	SubjectAllCredentials = prefix + "credential.*"
	// SubjectAllState matches every Fact.
	SubjectAllState = prefix + "state.>"
	// SubjectAllDeltas matches every Delta, Checkpoint, Hold and Epoch.
	SubjectAllDeltas = prefix + "delta.>"
	// SubjectAllApply matches every Delta on its way to nodes.
	SubjectAllApply = prefix + "apply.>"
	// SubjectAllApplied matches every Applied.
	SubjectAllApplied = prefix + "applied.*"
	// SubjectAllEvents matches every Event.
	SubjectAllEvents = prefix + "event.>"
	// SubjectAllSyncs matches every SyncRequest.
	SubjectAllSyncs = prefix + "sync.*"
)

// StateSubject carries the Fact of one object. Objects without a namespace have an empty one.
func StateSubject(kind, namespace, name string) string {
	return prefix + "state." + token(strings.ToLower(kind)) + "." + token(namespace) + "." + token(name)
}

// ObjectOfSubject returns the object whose Facts a subject carries. An error says that StateSubject makes no such subject.
func ObjectOfSubject(subject string) (*ObjectRef, error) {
	tokens := strings.Split(strings.TrimPrefix(subject, prefix+"state."), ".")
	if len(tokens) != 3 {
		return nil, fmt.Errorf("subject %q is of no object: it needs a kind, a namespace and a name", subject)
	}
	namespace, err := untoken(tokens[1])
	if err != nil {
		return nil, fmt.Errorf("subject %q: %w", subject, err)
	}
	name, err := untoken(tokens[2])
	if err != nil {
		return nil, fmt.Errorf("subject %q: %w", subject, err)
	}
	if !utf8.ValidString(namespace) || !utf8.ValidString(name) {
		return nil, fmt.Errorf("subject %q is of no object: no message can name it", subject)
	}
	kinds := (&Fact{}).ProtoReflect().Descriptor().Oneofs().ByName("state").Fields()
	for i := range kinds.Len() {
		kind := string(kinds.Get(i).Message().Name())
		if StateSubject(kind, namespace, name) == subject {
			return &ObjectRef{Kind: kind, Namespace: namespace, Name: name}, nil
		}
	}
	return nil, fmt.Errorf("subject %q is of no kind that this version knows", subject)
}

// DeltaSubject keeps the Deltas of one layer in DELTA, given as the layer's String: "cluster" or "node.NAME". It is
// for the log and those who read it. Nodes must not subscribe to it: what is appended in a batch reaches plain
// subscribers before the stream has accepted it, and also when the stream refuses it (docs/adr/0008).
func DeltaSubject(layer string) string { return prefix + "delta." + layerTokens(layer) }

// ApplySubject carries the same Deltas, byte for byte, to the nodes of a layer. The leading compiler publishes
// there, on core NATS, what DELTA has just accepted; no stream keeps it.
func ApplySubject(layer string) string { return prefix + "apply." + layerTokens(layer) }

func layerTokens(layer string) string {
	kind, name, named := strings.Cut(layer, ".")
	if !named {
		return token(kind)
	}
	return token(kind) + "." + token(name)
}

// AppliedSubject carries one node's Applied reports.
func AppliedSubject(node string) string { return prefix + "applied." + token(node) }

// SyncSubject takes one node's SyncRequests, answered with SyncReplies.
func SyncSubject(node string) string { return prefix + "sync." + token(node) }

// ActualSubject takes a DumpRequest and is answered with DumpReplies by the node's programmer.
func ActualSubject(node string) string { return prefix + "actual." + token(node) }

// FlowsSubject takes a FlowsRequest and is answered with FlowsReplies by the node's programmer.
func FlowsSubject(node string) string { return prefix + "flows." + token(node) }

// PulseSubject carries the Pulses of one service: "watcher" or "compiler". Core NATS only.
func PulseSubject(service string) string { return prefix + "pulse." + token(service) }

// CredentialSubject takes one node's CredentialRequests, answered with a CredentialReply by a watcher.
func CredentialSubject(node string) string { return prefix + "credential." + token(node) }

// EventSubject carries Events of one service ("watcher", "compiler" or "programmer") and, for programmers, node.
func EventSubject(service, node string) string {
	return prefix + "event." + token(service) + "." + token(node)
}

// SpeakerOfEvent returns the service, and for programmers the node, whose Events a subject carries. The server lets nobody
// else speak there, whatever the Event says inside.
func SpeakerOfEvent(subject string) (service, node string, err error) {
	tokens := strings.Split(strings.TrimPrefix(subject, prefix+"event."), ".")
	if len(tokens) != 2 {
		return "", "", fmt.Errorf("subject %q is of no event: it needs a service and a node", subject)
	}
	if service, err = untoken(tokens[0]); err == nil {
		node, err = untoken(tokens[1])
	}
	if err != nil {
		return "", "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return service, node, nil
}

// User names a user on the bus: a node, or another client by any name, as one token, by which permissions name subjects.
func User(name string) string { return token(name) }

// InboxPrefix starts the subjects on which a user hears answers to its requests, so that permissions can keep others
// from listening. It is given what User returns.
func InboxPrefix(user string) string { return "_INBOX." + user }

// NodeOfSubject returns the node that the last token of a subject names.
func NodeOfSubject(subject string) (string, error) {
	last := subject[strings.LastIndexByte(subject, '.')+1:]
	node, err := untoken(last)
	if err != nil {
		return "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return node, nil
}

// Names with characters other than these are encoded. Lower-case names without dots stay readable.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

var encoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// token makes one subject token of any name: "_" for none, the name itself if it has only plain characters,
// else "_" and the name in base32hex. No two names make the same token.
func token(name string) string {
	if name == "" {
		return "_"
	}
	if strings.Trim(name, plain) == "" {
		return name
	}
	return "_" + encoding.EncodeToString([]byte(name))
}

func untoken(t string) (string, error) {
	rest, encoded := strings.CutPrefix(t, "_")
	if !encoded {
		return t, nil
	}
	name, err := encoding.DecodeString(rest)
	if err != nil {
		return "", fmt.Errorf("token %q is not a name that deltaplane encoded: %w", t, err)
	}
	return string(name), nil
}
