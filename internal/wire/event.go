// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strings"

	"github.com/deltaplane/deltaplane/schemas"
)

// maxEventText bounds an event's text, in bytes. All else in an event is short.
const maxEventText = schemas.MaxEventBytes / 2

// BoundEvent cuts the text of an event, so that the stream of events keeps it.
func BoundEvent(e *schemas.Event) {
	if len(e.GetText()) > maxEventText {
		e.Text = strings.ToValidUTF8(e.GetText()[:maxEventText], "") + "…"
	}
}
