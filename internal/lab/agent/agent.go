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
	results := make([]Result, max(r.Count, 1))
	for i := range results {
		results[i] = Probe(ctx, r.Target)
	}
	return results
}

// failuresKept bounds what a load remembers of its failures.
const failuresKept = 5

func load(ctx context.Context, r request) *Load {
	return Repeat(ctx, r.Interval, func() Result { return Probe(context.WithoutCancel(ctx), r.Target) })
}

// Repeat makes attempts until ctx ends. The one in hand then is finished, so that stopping never counts as a failure.
func Repeat(ctx context.Context, interval time.Duration, attempt func() Result) *Load {
	total := &Load{Reached: map[string]int{}}
	ticker := time.NewTicker(max(interval, time.Millisecond))
	defer ticker.Stop()
	for ctx.Err() == nil {
		result := attempt()
		total.Attempts++
		if result.Outcome == OK && result.Reached != "" {
			total.Reached[result.Reached]++
		} else {
			total.Failed++
			if len(total.Failures) < failuresKept {
				total.Failures = append(total.Failures, fmt.Sprintf("%s %s: %s", time.Now().UTC().Format("15:04:05.000"), result.Outcome, result.Error))
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return total
}
