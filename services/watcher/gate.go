// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/deltaplane/deltaplane/internal/fair"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// Whoever reaches the bus may knock as often as it likes, with whatever it takes for a token. What each of these bounds is
// what the API server is asked: by everyone together, by one address or node, and at the same time. The bound of an address
// is far below that of all, so that one that floods takes little from who knocks elsewhere.
const (
	reviewsPerSecond, reviewsAtOnce = 100, 200
	reviewsPerAsker, askersAtOnce   = 2, 10
	reviewsRunning                  = 16

	// knownTime is how long it is remembered which node a token proves. Who joins waits some two seconds for an answer, then
	// knocks again: when the API server is slower than that, the next knock finds the answer here.
	knownTime = time.Minute
	// refusedTime is the same for a token that proves none: not long, the API server may know better later.
	refusedTime = 10 * time.Second
)

// errBusy is why the API server isn't asked now: who asks may ask again.
var errBusy = errors.New("too many tokens are shown at a time: show it again")

// reviewer finds the node that a ServiceAccount token proves.
type reviewer interface {
	// Claimed returns what a token says of itself, of which nothing is proven. An error says why it can't be good.
	Claimed(token string, now time.Time) (kube.Proof, error)
	// Review asks the API server. Only kube.ErrRefused is its verdict.
	Review(ctx context.Context, token string) (kube.Proof, error)
}

// gate finds the node that a token proves, and keeps the API server from being asked more than it should.
type gate struct {
	review  reviewer
	nodes   *nodes
	reviews func() // counts
	known   remembered
	refused remembered
	running chan struct{}
	all     *rate.Limiter
	each    *fair.Limiter // by address or node
}

func newGate(review reviewer, nodes *nodes, reviews func()) *gate {
	return &gate{
		review: review, nodes: nodes, reviews: reviews, running: make(chan struct{}, reviewsRunning),
		all: rate.NewLimiter(reviewsPerSecond, reviewsAtOnce), each: fair.New(reviewsPerAsker, askersAtOnce),
	}
}

// node returns the node that a token proves, which asker shows.
func (g *gate) node(ctx context.Context, asker, token string, now time.Time) (string, error) {
	claimed, err := g.review.Claimed(token, now)
	if err != nil {
		return "", err
	}
	if err := g.nodes.has(claimed); err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(token))
	found, ok := g.known.find(key, now)
	if !ok {
		found, ok = g.refused.find(key, now)
	}
	if !ok {
		found, err = g.ask(ctx, asker, key, token, now)
	}
	if err = errors.Join(err, found.err); err != nil {
		return "", err
	}
	return found.proof.Node, g.nodes.has(found.proof)
}

// ask asks the API server, if that may be asked now.
func (g *gate) ask(ctx context.Context, asker string, key [sha256.Size]byte, token string, now time.Time) (answer remembering, err error) {
	if !g.each.Allow(asker, now) {
		return answer, fmt.Errorf("%s: %w", asker, errBusy)
	}
	if !g.all.AllowN(now, 1) {
		return answer, errBusy
	}
	select {
	case g.running <- struct{}{}:
		defer func() { <-g.running }()
	case <-ctx.Done():
		return answer, errBusy
	}
	g.reviews()
	proof, err := g.review.Review(ctx, token)
	switch {
	case err == nil:
		answer = remembering{proof: proof, until: now.Add(knownTime)}
		g.known.add(key, answer, now)
	case errors.Is(err, kube.ErrRefused):
		g.refused.add(key, remembering{err: err, until: now.Add(refusedTime)}, now)
	}
	return answer, err
}
