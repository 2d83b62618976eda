// SPDX-License-Identifier: Apache-2.0

package resync

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// reply is a SyncReply whose content is still as it was sealed.
type reply struct {
	domain  seal.Domain // of the content; empty if there is none
	content []byte
	*schemas.SyncReply
}

// domains are the kinds of content by the number of their field in SyncReply; a test holds them to the generated code.
var domains = map[protowire.Number]seal.Domain{1: seal.Delta, 6: seal.Branches}

// readReply decodes a message but for its content: a seal is of bytes, and decoding loses them.
func readReply(message []byte) (reply, error) {
	r := reply{SyncReply: &schemas.SyncReply{}}
	var others []byte
	for rest := message; len(rest) > 0; {
		number, kind, tag := protowire.ConsumeTag(rest)
		size := tag
		if tag >= 0 {
			size = protowire.ConsumeFieldValue(number, kind, rest[tag:])
		}
		if size < 0 {
			return r, fmt.Errorf("%w: an answer: %w", wire.ErrForeign, protowire.ParseError(size))
		}
		if domain := domains[number]; domain != "" && kind == protowire.BytesType {
			r.domain = domain
			r.content, _ = protowire.ConsumeBytes(rest[tag:])
		} else {
			others = append(others, rest[:tag+size]...)
		}
		rest = rest[tag+size:]
	}
	return r, wire.Unmarshal(others, r.SyncReply)
}

// open returns the content as it was before it was sealed, if check believes it.
func (r *reply) open(check func(seal.Domain, []byte) ([]byte, error)) ([]byte, error) {
	if check == nil || r.domain == "" {
		return r.content, nil
	}
	body, err := check(r.domain, r.content)
	if err != nil {
		return nil, fmt.Errorf("a compiler's answer: %w", err)
	}
	return body, nil
}
