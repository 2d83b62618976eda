// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"maps"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// rememberedMost bounds the answers that are remembered, of each kind.
const rememberedMost = 10_000

// remembered are answers about tokens, for a while.
type remembered struct {
	mu      sync.Mutex
	answers map[[sha256.Size]byte]remembering
}

// remembering is one answer: the node that a token proves, or why it proves none.
type remembering struct {
	proof kube.Proof
	err   error
	until time.Time
}

func (r *remembered) find(token [sha256.Size]byte, now time.Time) (remembering, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, ok := r.answers[token]
	return found, ok && now.Before(found.until)
}

func (r *remembered) add(token [sha256.Size]byte, answer remembering, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= rememberedMost {
		maps.DeleteFunc(r.answers, func(_ [sha256.Size]byte, a remembering) bool { return !now.Before(a.until) })
	}
	if r.answers == nil || len(r.answers) >= rememberedMost {
		r.answers = map[[sha256.Size]byte]remembering{}
	}
	r.answers[token] = answer
}
