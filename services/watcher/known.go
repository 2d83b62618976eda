// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"maps"
	"sync"
	"time"
)

const (
	// knownTime is how long an answer about a token is remembered. Who joins waits some two seconds for an answer, then
	// knocks again: when the API server is slower than that, the next knock finds the answer here.
	knownTime = time.Minute
	// knownMost bounds how many there are.
	knownMost = 10_000
)

// known are tokens that the API server has just known. What it refuses isn't remembered: it may know better later.
type known struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]knownToken
}

type knownToken struct {
	node  string
	until time.Time
}

// node returns the node that a token proves, and asks about a token that isn't known.
func (k *known) node(ctx context.Context, review reviewer, token string, now time.Time) (string, error) {
	key := sha256.Sum256([]byte(token))
	k.mu.Lock()
	found, ok := k.tokens[key]
	k.mu.Unlock()
	if ok && now.Before(found.until) {
		return found.node, nil
	}
	node, err := review.Node(ctx, token)
	if err == nil {
		k.add(key, knownToken{node, now.Add(knownTime)}, now)
	}
	return node, err
}

func (k *known) add(key [sha256.Size]byte, token knownToken, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.tokens) >= knownMost {
		maps.DeleteFunc(k.tokens, func(_ [sha256.Size]byte, t knownToken) bool { return !now.Before(t.until) })
	}
	if k.tokens == nil || len(k.tokens) >= knownMost {
		k.tokens = map[[sha256.Size]byte]knownToken{}
	}
	k.tokens[key] = token
}
