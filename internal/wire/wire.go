// SPDX-License-Identifier: Apache-2.0

// Package wire turns what internal/model holds into the messages of schemas, and back. Encoding splits what is too
// large for one message into parts; decoding believes nothing: every address, port, id, name, enum, digest and count
// is checked, and an error says which field of which row is wrong.
//
// It promises that whatever decodes is a valid model value, that encoding and decoding give the same value, and that
// putting parts together takes bounded memory. Unknown fields are passed over, so that older readers understand newer
// writers. It does no input or output.
package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/model"
)

// The bounds of what a message may hold.
const (
	// MaxParts bounds the parts of one Delta and the chunks of one Snapshot.
	MaxParts = 4096
	// MaxRows bounds the rows of one Delta or Snapshot: put, removed, and members each counted.
	MaxRows = 8 << 20
	// MaxName bounds names of objects, nodes, ports and field managers, in bytes: Kubernetes' longest is 253.
	MaxName = 253
	// MaxPod is "namespace/name": 63, 1 and 253 bytes.
	MaxPod = 317
	// MaxOpaque bounds what Kubernetes gives without a meaning to us: uid, resourceVersion.
	MaxOpaque = 256
	// MaxZone bounds a zone's name, in bytes: Kubernetes' bound of a label's value.
	MaxZone = 63
	// MaxPolicies bounds a rule set's list of policies, in bytes.
	MaxPolicies = 255
	// MaxRuleName bounds the name of a policy's rule, in bytes.
	MaxRuleName = 100
	// MaxAffinity bounds session affinity, in seconds: a day, as in Kubernetes.
	MaxAffinity = 86_400
)

// ErrForeign says that bytes are no message of the kind that was expected, or one that no deltaplane writes.
var ErrForeign = errors.New("not a message that deltaplane writes")

func foreign(format string, v ...any) error {
	return fmt.Errorf("%w: %w", ErrForeign, fmt.Errorf(format, v...))
}

// Unmarshal decodes data into m. It is proto.Unmarshal with an error for operators.
func Unmarshal(data []byte, m proto.Message) error {
	if err := proto.Unmarshal(data, m); err != nil {
		return foreign("decode %d bytes as %s: %w", len(data), m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// encode marshals a message of ours; what can't be encoded is a bug of ours.
func encode(m proto.Message) []byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("wire: encode %s: %v", m.ProtoReflect().Descriptor().Name(), err))
	}
	return data
}

// AddrToProto returns the 4 or 16 bytes of an address.
func AddrToProto(addr netip.Addr) []byte { return addr.Unmap().AsSlice() }

// AddrFromProto reads an address of 4 or 16 bytes; IPv4-mapped ones are IPv4.
func AddrFromProto(b []byte) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address of %d bytes: want 4 or 16", len(b))
	}
	return addr.Unmap(), nil
}

// PortFromProto reads a port, 1 to 65535.
func PortFromProto(port uint32) (uint16, error) {
	if port == 0 || port > 65535 {
		return 0, fmt.Errorf("port %d: want 1 to 65535", port)
	}
	return uint16(port), nil
}

// Name checks a name: not empty, at most MaxName bytes, one line of printable UTF-8.
func Name(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty", what)
	}
	return text(what, name, MaxName)
}

// text checks a string that may be empty.
func text(what, s string, most int) error {
	switch {
	case len(s) > most:
		return fmt.Errorf("%s of %d bytes: at most %d", what, len(s), most)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %q is not UTF-8", what, s)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%s %q has control characters", what, s)
	}
	return nil
}

// Clean cuts s to at most most bytes of one line of printable UTF-8: what others say is shown on people's terminals.
func Clean(s string, most int) string {
	if text("", s, most) == nil {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// layer reads "cluster" or "node.NAME".
func layer(s string) (model.Layer, error) {
	l, err := model.ParseLayer(s)
	if err != nil {
		return model.Layer{}, err
	}
	return l, text("layer", l.Name, MaxName)
}

func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeFromProto(what string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", what, err)
	}
	return t.AsTime(), nil
}
