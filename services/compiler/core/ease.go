// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/services/compiler/fleet"
)

// ease spares nodes and bus when they can't take as much as the pace allows: thousands of nodes times 15 messages a
// second may be more than a server, or a network, carries. While most nodes that speak lack what was committed over
// fleet.UpdatingFor ago, messages come a quarter as often every easeAfter, down to one each 64 times Options.PerMessage
// (4 s), and so are fewer and larger: an object that changed ten times meanwhile is told once. When most have it, twice as
// often every hastenAfter. Fewer than easeFrom nodes are no load that could be eased.
//
// What most nodes have decides: a slow node, or some that lie about what they have, delay nobody.
type ease struct {
	by int // PerMessage is doubled so often
	at time.Time
}

const (
	easeAfter   = 2 * time.Second
	hastenAfter = 5 * time.Second
	easeMost    = 6
	easeFrom    = 100
)

// adapt looks how the nodes keep up, and sets the pace.
func (c *Core) adapt(now time.Time) (out Output) {
	late, of := c.fleet.Late(c.wanted(), now)
	behind := 2*late > of && of >= easeFrom
	switch {
	case behind && c.ease.by <= easeMost-2 && now.Sub(c.ease.at) >= easeAfter:
		if c.ease.by += 2; c.ease.by == 2 {
			out.Events = append(out.Events, c.event(now, schemas.Severity_SEVERITY_WARNING, "fleet_behind", fmt.Sprintf(
				"%d of %d nodes lack what was committed over %s ago: they, or the bus, can't take as much as there is. Until most keep up they are told less often, and more at once",
				late, of, fleet.UpdatingFor), nil))
		}
	case !behind && c.ease.by > 0 && now.Sub(c.ease.at) >= hastenAfter:
		c.ease.by--
	default:
		return out
	}
	c.ease.at = now
	c.pace.each = c.o.PerMessage << c.ease.by
	return out
}

// Pace returns how long there is between two messages to a node, when there is always something to tell.
func (c *Core) Pace() time.Duration { return c.o.PerMessage << c.ease.by }
