// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// counted counts how often the API server is asked. Away is its answer while it is.
type counted struct {
	tokens
	asked int
	away  error
}

func (c *counted) Review(ctx context.Context, token string) (kube.Proof, error) {
	if c.asked++; c.away != nil {
		return kube.Proof{}, c.away
	}
	return c.tokens.Review(ctx, token)
}

// A node that knocks again finds the answer that came too late for its first knock; a token that was refused isn't asked
// about for a short while; that the API server is away is no answer.
func TestAnswersAboutTokensAreRememberedForAWhile(t *testing.T) {
	api, start := &counted{tokens: tokens{"good": "node-a"}}, time.Now()
	g := newGate(api, &nodes{}, func() {})
	for i, step := range []struct {
		token string
		after time.Duration
		away  bool
		asked int
		want  error
	}{
		{"good", 0, true, 1, context.DeadlineExceeded},
		{"good", 0, false, 2, nil},
		{"good", knownTime / 2, false, 2, nil},
		{"good", knownTime, false, 3, nil},
		{"bad", knownTime, false, 4, kube.ErrRefused},
		{"bad", knownTime + refusedTime/2, true, 4, kube.ErrRefused},
		{"bad", knownTime + refusedTime, false, 5, kube.ErrRefused},
	} {
		if api.away = nil; step.away {
			api.away = context.DeadlineExceeded
		}
		node, err := g.node(t.Context(), "address 192.0.2.1", step.token, start.Add(step.after))
		if api.asked != step.asked || !errors.Is(err, step.want) || (node == "node-a") != (step.want == nil) {
			t.Errorf("step %d: node %q, %v; asked %d times, want %d", i, node, err, api.asked, step.asked)
		}
	}
	var r remembered
	for i := range 3 * rememberedMost {
		r.add([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, remembering{until: start.Add(time.Hour)}, start)
	}
	if len(r.answers) > rememberedMost {
		t.Errorf("%d tokens are remembered, want at most %d", len(r.answers), rememberedMost)
	}
}

// For ten seconds one address shows a thousand tokens a second, each another one, and each node of a cluster shows its own
// once: all nodes come in, and the flood costs what an address may.
//
// Fault 13: floods of joins.
func TestAFloodOfTokensTakesNothingFromOthers(t *testing.T) {
	const seconds = 10
	good := tokens{}
	for n := range 50 * seconds {
		good[fmt.Sprint("good ", n)] = fmt.Sprint("node-", n)
	}
	api, start := &counted{tokens: good}, time.Now()
	g := newGate(api, &nodes{}, func() {})
	for i := range 1000 * seconds {
		now := start.Add(time.Duration(i) * time.Millisecond)
		if _, err := g.node(t.Context(), "address 192.0.2.66", fmt.Sprint("bad ", i), now); err == nil {
			t.Fatal("a bad token was believed")
		}
		if i%20 != 0 {
			continue
		}
		if node, err := g.node(t.Context(), fmt.Sprint("address 10.0.0.", i/20), fmt.Sprint("good ", i/20), now); err != nil {
			t.Errorf("%s after %d bad tokens: %v", node, i, err)
		}
	}
	if bad := api.asked - len(good); bad > askersAtOnce+reviewsPerAsker*seconds {
		t.Errorf("the API server was asked about %d bad tokens", bad)
	}
}

// From however many addresses they come, the API server is asked so many times a second and not more.
func TestTheAPIServerIsAskedSoOften(t *testing.T) {
	api, start := &counted{}, time.Now()
	g := newGate(api, &nodes{}, func() {})
	var err error
	for i := range 10_000 {
		_, err = g.node(t.Context(), fmt.Sprint("address ", i), fmt.Sprint("bad ", i), start.Add(time.Duration(i)*100*time.Microsecond))
	}
	if api.asked > reviewsAtOnce+reviewsPerSecond || !errors.Is(err, errBusy) {
		t.Errorf("the API server was asked %d times in a second; the last answer was %v", api.asked, err)
	}
}

// What is known not to be a node's is refused without a question.
func TestTokensOfNoNodeAreNotAskedAbout(t *testing.T) {
	api := &counted{tokens: tokens{"of a node that is gone": "node-a"}}
	g := newGate(api, &nodes{listed: true}, func() {})
	for token, want := range map[string]string{"": "no token", "of a node that is gone": "no Node"} {
		if _, err := g.node(t.Context(), "address 192.0.2.1", token, time.Now()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", token, err, want)
		}
	}
	if api.asked != 0 {
		t.Errorf("the API server was asked %d times", api.asked)
	}
}
