// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRequestIsAnsweredOnceOfAQueue(t *testing.T) {
	c := start(t)
	for range 3 {
		_, err := c.Respond("double", "q", func(_ context.Context, data []byte, reply func([]byte) error) {
			if err := reply(append(data, data...)); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Request(t.Context(), "double", []byte("ab"))
	if err != nil || string(got) != "abab" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRequestThatNobodyAnswers(t *testing.T) {
	c := start(t)
	_, err := c.Request(t.Context(), "nowhere", nil)
	if !errors.Is(err, ErrNobody) {
		t.Errorf("one answer: %v, want ErrNobody", err)
	}
	wantError(t, err, "request on nowhere: nobody answers there")
	err = c.RequestMany(t.Context(), "nowhere", nil, AnswerWithin, func([]byte) (bool, error) { return true, nil })
	if !errors.Is(err, ErrNobody) {
		t.Errorf("many answers: %v, want ErrNobody", err)
	}
}

func TestManyAnswersEndWhenTheCallerHasTheLast(t *testing.T) {
	c := start(t)
	_, err := c.Respond("alphabet", "", func(_ context.Context, _ []byte, reply func([]byte) error) {
		for b := byte('a'); b <= 'z'; b++ {
			if err := reply([]byte{b}); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	err = c.RequestMany(t.Context(), "alphabet", nil, AnswerWithin, func(b []byte) (bool, error) {
		got.Write(b)
		return string(b) != "z", nil
	})
	if diff := cmp.Diff("abcdefghijklmnopqrstuvwxyz", got.String()); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	failed := errors.New("no b")
	err = c.RequestMany(t.Context(), "alphabet", nil, AnswerWithin, func(b []byte) (bool, error) {
		if string(b) == "b" {
			return true, failed
		}
		return true, nil
	})
	if !errors.Is(err, failed) {
		t.Errorf("error of the caller: %v", err)
	}
}

// Fault 2: who was asked is stopped, and another takes its place a moment later.
func TestAskAsksOnUntilSomebodyAnswers(t *testing.T) {
	c := start(t)
	asked := make(chan struct{}, 100)
	if _, err := c.Respond("who", "", func(context.Context, []byte, func([]byte) error) { asked <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		var all strings.Builder
		err := c.Ask(t.Context(), "who", nil, func(b []byte) (bool, error) {
			all.Write(b)
			return string(b) != "z", nil
		})
		if err != nil {
			t.Error(err)
		}
		got <- all.String()
	}()
	receive(t, asked)
	_, err := c.Respond("who", "", func(_ context.Context, _ []byte, reply func([]byte) error) {
		for _, part := range []string{"a", "b", "z"} {
			if err := reply([]byte(part)); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if all := receive(t, got); all != "abz" {
		t.Errorf("got %q, want one whole answer, abz", all)
	}
}

func TestAskHearsOneOfThoseThatAnswer(t *testing.T) {
	c := start(t)
	for _, name := range []string{"a", "b"} {
		_, err := c.Respond("who", "", func(_ context.Context, _ []byte, reply func([]byte) error) {
			for _, part := range []string{"1", "2", "3"} {
				if err := reply([]byte(name + part)); err != nil {
					t.Error(err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var got strings.Builder
	err := c.Ask(t.Context(), "who", nil, func(b []byte) (bool, error) {
		got.Write(b)
		return string(b)[1:] != "3", nil
	})
	if all := got.String(); err != nil || all != "a1a2a3" && all != "b1b2b3" {
		t.Errorf("got %q, %v; want one whole answer", all, err)
	}
	if err := c.Ask(t.Context(), "nowhere", nil, nil); !errors.Is(err, ErrNobody) {
		t.Errorf("where nobody answers: %v, want ErrNobody", err)
	}
}

func TestAnswerThatBreaksOffEndsWithTheContext(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Respond("half", "", func(_ context.Context, _ []byte, reply func([]byte) error) {
		if err := reply([]byte("first")); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	err = c.RequestMany(ctx, "half", nil, AnswerWithin, func([]byte) (bool, error) { cancel(); return true, nil })
	wantError(t, err, "request on half", "canceled")
}

func TestRequestsAreWorkedOnByFewAtATime(t *testing.T) {
	c := start(t)
	working, release := make(chan struct{}, 100), make(chan struct{})
	_, err := c.Respond("slow", "", func(_ context.Context, _ []byte, reply func([]byte) error) {
		working <- struct{}{}
		<-release
		if err := reply(nil); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 2*respondWorkers)
	for range 2 * respondWorkers {
		go func() {
			_, err := c.Request(t.Context(), "slow", nil)
			answered <- err
		}()
	}
	for range respondWorkers {
		receive(t, working)
	}
	if n := len(working); n != 0 {
		t.Errorf("%d more than %d are worked on", n, respondWorkers)
	}
	close(release)
	for range 2 * respondWorkers {
		if err := receive(t, answered); err != nil {
			t.Error(err)
		}
	}
}

// Fault 4: when all of 5,000 nodes ask at once none is dropped, however slow the first answers are; and what waits is bounded.
func TestAllNodesMayAskAtOnce(t *testing.T) {
	const nodes = 5000
	c := start(t)
	release, answers := make(chan struct{}), make(chan []byte, nodes)
	sub, err := c.Respond("sync.*", "", func(_ context.Context, data []byte, reply func([]byte) error) {
		<-release
		if err := reply(data); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe("answers", func(m Message) { answers <- m.Data }); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		if err := c.nats.PublishRequest("sync."+strconv.Itoa(i), "answers", []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	close(release)
	heard := map[string]bool{}
	for range nodes {
		heard[string(receive(t, answers))] = true
	}
	if len(heard) != nodes || sub.Dropped() != 0 {
		t.Errorf("%d of %d were answered, %d dropped", len(heard), nodes, sub.Dropped())
	}
	if messages, bytes, err := sub.sub.PendingLimits(); err != nil || messages < nodes || messages > 4*nodes || bytes <= 0 {
		t.Errorf("%d requests of %d bytes may wait (%v)", messages, bytes, err)
	}
}
