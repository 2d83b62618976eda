// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

func TestAnEventIsKeptByItsStream(t *testing.T) {
	for _, text := range []string{"", "drift", strings.Repeat("€", schemas.MaxEventBytes)} {
		e := &schemas.Event{Text: text}
		BoundEvent(e)
		if _, err := proto.Marshal(e); err != nil {
			t.Fatal(err)
		}
		if n := proto.Size(e); n > schemas.MaxEventBytes*3/4 {
			t.Errorf("a text of %d bytes: the event has %d", len(text), n)
		}
		if len(text) < maxEventText && e.GetText() != text {
			t.Errorf("a short text was changed to %q", e.GetText())
		}
	}
}
