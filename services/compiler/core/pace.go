// SPDX-License-Identifier: Apache-2.0

package core

import "time"

// pace keeps nodes from getting more messages than they should: a bucket that starts full, loses what the node
// that gets most gets in a commit, and fills evenly. A commit may overdraw it, since how much it will be isn't
// known before; the next one waits until a message is left.
//
// With a burst of 4, 15 a second and commits of at most 2 messages a node, no second has more than 4+15+1 = 20. A
// change of policies is up to mostStages revisions, so it waits for the whole burst: it overdraws no more than others.
// An evenly spaced pace of 50 ms would allow as much, but let a Pod's change delay that of its EndpointSlice.
type pace struct {
	burst float64
	each  time.Duration // one message more after this
	left  float64
	at    time.Time
}

// mostStages is how many messages a node gets for a change of policies, at most: the cluster layer, its own with all
// but policies, and the stages of these (see package policy).
const mostStages = 5

func newPace(burst int, each time.Duration, now time.Time) pace {
	return pace{burst: float64(burst), each: each, left: float64(burst), at: now}
}

// spend takes messages out.
func (p *pace) spend(messages int, now time.Time) {
	p.left = min(p.burst, p.left+float64(now.Sub(p.at))/float64(p.each)) - float64(messages)
	p.at = now
}

// next returns when a commit of so many messages may be made, or of as many as there ever are.
func (p *pace) next(messages int) time.Time {
	wanted := min(float64(messages), p.burst)
	if p.left >= wanted {
		return p.at
	}
	return p.at.Add(time.Duration((wanted - p.left) * float64(p.each)))
}
