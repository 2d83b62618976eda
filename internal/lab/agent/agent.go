// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Serve does what the lines of in ask for and writes replies to out, until in ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{out: json.NewEncoder(out), loads: map[int]context.CancelFunc{}}
	defer s.tasks.Wait()
	defer cancel()
	for lines := bufio.NewScanner(in); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		s.handle(ctx, r)
	}
}

type session struct {
	tasks sync.WaitGroup

	mu    sync.Mutex
	out   *json.Encoder
	loads map[int]context.CancelFunc
}

func (s *session) handle(ctx context.Context, r request) {
	switch r.Op {
	case "probe":
		s.tasks.Go(func() { s.reply(reply{ID: r.ID, Results: probes(ctx, r)}) })
	case "load":
		ctx, stop := context.WithCancel(ctx)
		s.mu.Lock()
		s.loads[r.ID] = stop
		s.mu.Unlock()
		s.tasks.Go(func() { s.reply(reply{ID: r.ID, Load: load(ctx, r)}) })
	case "stop":
		s.mu.Lock()
		if stop := s.loads[r.Stop]; stop != nil {
			stop()
			delete(s.loads, r.Stop)
		}
		s.mu.Unlock()
	default:
		s.reply(reply{ID: r.ID, Error: fmt.Sprintf("op %q: want probe, load or stop", r.Op)})
	}
}

func (s *session) reply(r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// If the other side is gone, so is standard input, which ends the session.
	_ = s.out.Encode(r)
}

func probes(ctx context.Context, r request) []Result {
	attempt, end := attempts(r.Target)
	defer end()
	results := make([]Result, 0, max(r.Count, 1))
	ticker := time.NewTicker(max(r.Interval, time.Nanosecond))
	defer ticker.Stop()
	for range max(r.Count, 1) {
		if len(results) > 0 && r.Interval > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
		results = append(results, attempt(ctx))
	}
	return results
}

// What a load remembers of its failures and switches.
const (
	failuresKept = 5
	switchesKept = 20
)

func load(ctx context.Context, r request) *Load {
	attempt, end := attempts(r.Target)
	defer end()
	t := newTally(r.Target.Stream)
	t.repeat(ctx, r.Interval, func() Result { return attempt(context.WithoutCancel(ctx)) })
	return t.load
}

// Repeat makes attempts until ctx ends. The one in hand then is finished, so that stopping never counts as a failure.
func Repeat(ctx context.Context, interval time.Duration, attempt func() Result) *Load {
	t := newTally(false)
	t.repeat(ctx, interval, attempt)
	return t.load
}

// tally counts what attempts come to.
type tally struct {
	load   *Load
	stream bool
	last   string    // the pod that answered last
	at     time.Time // when it did
}

func newTally(stream bool) *tally {
	return &tally{load: &Load{Reached: map[string]int{}}, stream: stream}
}

func (t *tally) repeat(ctx context.Context, interval time.Duration, attempt func() Result) {
	ticker := time.NewTicker(max(interval, time.Millisecond))
	defer ticker.Stop()
	for ctx.Err() == nil {
		t.count(attempt(), time.Now())
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

func (t *tally) count(r Result, now time.Time) {
	t.load.Attempts++
	if r.Outcome != OK || r.Reached == "" {
		t.load.Failed++
		if len(t.load.Failures) < failuresKept {
			t.load.Failures = append(t.load.Failures, fmt.Sprintf("%s %s: %s", now.UTC().Format("15:04:05.000"), r.Outcome, r.Error))
		}
		return
	}
	t.load.Reached[r.Reached]++
	if t.last != "" {
		gap := now.Sub(t.at).Microseconds()
		t.load.LongestGapMicros = max(t.load.LongestGapMicros, gap)
		if t.stream && t.last != r.Reached && len(t.load.Switches) < switchesKept {
			t.load.Switches = append(t.load.Switches, Switch{From: t.last, To: r.Reached, GapMicros: gap})
		}
	}
	t.last, t.at = r.Reached, now
}
