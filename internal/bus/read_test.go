// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

func appendTo(t testing.TB, f *Fence, text ...string) uint64 {
	t.Helper()
	last, err := f.Append(t.Context(), records(text...))
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func TestReadOfAnEmptyStreamReturnsNothing(t *testing.T) {
	c := startWith(t, ledger)
	if got := read(t, c, ReadOptions{Stream: "LEDGER"}); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	take(t, c, "one")
	if got := entries(t, c); len(got) != 0 {
		t.Errorf("subjects without messages: got %q", got)
	}
	if got := read(t, c, ReadOptions{Stream: "LEDGER", FromSequence: 100}); len(got) != 0 {
		t.Errorf("after the end: got %q", got)
	}
	if got := read(t, c, ReadOptions{Stream: "LEDGER", FromTime: time.Now().Add(time.Hour)}); len(got) != 0 {
		t.Errorf("from the future: got %q", got)
	}
}

func TestReadBeginsWhereItIsTold(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	last := appendTo(t, f, "a", "b", "c")
	var between time.Time
	err := c.Read(t.Context(), ReadOptions{Stream: "LEDGER"}, func(r Record) error { between = r.Time; return nil })
	if err != nil {
		t.Fatal(err)
	}
	between = between.Add(time.Nanosecond)
	appendTo(t, f, "d")
	fromC := []string{"ledger.entry.2=c", "ledger.entry.0=d"}
	if diff := cmp.Diff(fromC, read(t, c, ReadOptions{Stream: "LEDGER", FromSequence: last})); diff != "" {
		t.Errorf("from a sequence:\n%s", diff)
	}
	if diff := cmp.Diff(fromC[1:], read(t, c, ReadOptions{Stream: "LEDGER", FromTime: between})); diff != "" {
		t.Errorf("from a time:\n%s", diff)
	}
	some := ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.entry.1", "ledger.entry.2"}}
	if diff := cmp.Diff([]string{"ledger.entry.1=b", "ledger.entry.2=c"}, read(t, c, some)); diff != "" {
		t.Errorf("some subjects:\n%s", diff)
	}
}

func TestReadPassesOverWhatWasDeleted(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	last := appendTo(t, f, "a", "b", "c", "d")
	s, err := c.js.Stream(t.Context(), "LEDGER")
	if err != nil {
		t.Fatal(err)
	}
	for _, sequence := range []uint64{last - 2, last} {
		if err := s.DeleteMsg(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"ledger.entry.0=a", "ledger.entry.2=c"}, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestReadSeesOnlyTheLastOfASubjectWhereOnlyThatIsKept(t *testing.T) {
	state := ledger
	state.LastPerSubject, state.MaxAge = true, 0
	c := startWith(t, state)
	f := take(t, c, "one")
	for i := range 20 {
		appendTo(t, f, fmt.Sprint("a", i), fmt.Sprint("b", i))
	}
	if diff := cmp.Diff([]string{"ledger.entry.0=a19", "ledger.entry.1=b19"}, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

// What is appended while a Read runs is not waited for, however fast it comes.
func TestReadEndsWhileOthersAppend(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	want := appendTo(t, f, "a", "b", "c")
	var last uint64
	err := c.Read(t.Context(), ReadOptions{Stream: "LEDGER"}, func(r Record) error {
		appendTo(t, f, "more", "and more")
		last = r.Sequence
		return nil
	})
	if err != nil || last != want {
		t.Errorf("read up to %d, %v; want %d", last, err, want)
	}
}

func TestErrorOfTheCallerEndsReading(t *testing.T) {
	c := startWith(t, ledger)
	appendTo(t, take(t, c, "one"), "a", "b")
	enough := errors.New("enough")
	err := c.Read(t.Context(), ReadOptions{Stream: "LEDGER"}, func(Record) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestReadOfAStreamThatIsNotThere(t *testing.T) {
	c := start(t)
	err := c.Read(t.Context(), ReadOptions{Stream: "LEDGER"}, func(Record) error { return nil })
	wantError(t, err, "read stream LEDGER: the stream doesn't exist")
	if !errors.Is(err, ErrNoStream) {
		t.Errorf("%v is not ErrNoStream", err)
	}
}

func TestReadOfOverlappingSubjectsIsRefused(t *testing.T) {
	c := startWith(t, ledger)
	err := c.Read(t.Context(), ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.>", "ledger.a"}}, func(Record) error { return nil })
	wantError(t, err, "read stream LEDGER", "overlap")
}

func TestFollowTellsWhenItHasCaughtUpAndGoesOn(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	appendTo(t, f, "a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	heard, ended := make(chan string, 16), make(chan error, 1)
	go func() {
		o := ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.entry.*"}, OnCaughtUp: func() { heard <- "caught up" }}
		ended <- c.Follow(ctx, o, func(r Record) error { heard <- string(r.Data); return nil })
	}()
	for _, want := range []string{"a", "b", "caught up"} {
		if got := receive(t, heard); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	appendTo(t, f, "c")
	if got := receive(t, heard); got != "c" {
		t.Errorf("heard %q, want c", got)
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Errorf("Follow ended with %v; the end of its context is no error", err)
	}
}

func TestFollowOfNothingHasCaughtUpAtOnce(t *testing.T) {
	c := startWith(t, ledger)
	ctx, cancel := context.WithCancel(t.Context())
	o := ReadOptions{Stream: "LEDGER", OnCaughtUp: cancel}
	if err := c.Follow(ctx, o, func(Record) error { return nil }); err != nil {
		t.Error(err)
	}
}

// A server restart loses the reader's consumer; Follow goes on after it with nothing lost, repeated or reordered.
func TestFollowLivesThroughARestart(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, embedded.Options{Dir: dir})
	url := server.URL()
	back := make(chan struct{}, 1)
	c := connect(t, Options{URL: url, OnReconnect: func() { back <- struct{}{} }})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	appendTo(t, f, "1", "2")
	heard, ended := make(chan string, 64), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		o := ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.entry.*"}}
		ended <- c.Follow(ctx, o, func(r Record) error { heard <- string(r.Data); return nil })
	}()
	got := []string{receive(t, heard), receive(t, heard)}
	server.Shutdown()
	startServer(t, embedded.Options{Dir: dir, Port: portOf(t, url)})
	receive(t, back)
	appendTo(t, f, "3", "4")
	got = append(got, receive(t, heard), receive(t, heard))
	appendTo(t, f, "5")
	got = append(got, receive(t, heard))
	if !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) {
		t.Errorf("heard %q", got)
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
}

func TestReadOfManyMessages(t *testing.T) {
	c := startWith(t, schemas.EventLog)
	for i := range 20_000 {
		if err := c.Publish(schemas.EventSubject("test", fmt.Sprint("node-", i%8)), fmt.Append(nil, i)); err != nil { // of one it keeps 4,096
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for n < 20_000 {
		n = 0
		err := c.Read(t.Context(), ReadOptions{Stream: schemas.EventLog.Name}, func(r Record) error {
			if string(r.Data) != fmt.Sprint(n) {
				return fmt.Errorf("message %d holds %s", n, r.Data)
			}
			n++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A stream that is lost with its server and made anew has other messages under the same numbers: nobody may go on as if
// nothing had been.
func TestFollowOfAStreamThatWasReplacedEnds(t *testing.T) {
	c := startWith(t, ledger)
	appendTo(t, take(t, c, "one"), "a", "b")
	heard, ended := make(chan string, 16), make(chan error, 1)
	go func() {
		ended <- c.Follow(t.Context(), ReadOptions{Stream: "LEDGER"}, func(r Record) error { heard <- r.Subject; return nil })
	}()
	for range 3 {
		receive(t, heard)
	}
	if err := c.js.DeleteStream(t.Context(), "LEDGER"); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	// In between there was none: which of both is seen depends on when it is looked.
	if err := receive(t, ended); !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrNoStream) {
		t.Errorf("got %v, want ErrReplaced or ErrNoStream", err)
	}
}

// A stream that was restored and has grown beyond where it was read to has other messages in the places of those that were
// read.
//
// Fault 5: an old backup is restored, and the stream grows again while a reader is away.
func TestFollowOfAStreamThatWasRestoredAndGrewAgainEnds(t *testing.T) {
	dir, backup := t.TempDir(), t.TempDir()
	server := startServer(t, embedded.Options{Dir: dir})
	url := server.URL()
	c := connect(t, Options{URL: url})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	appendTo(t, f, "1")
	server.Shutdown()
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	server = startServer(t, embedded.Options{Dir: dir, Port: portOf(t, url)})
	heard, ended := make(chan string, 64), make(chan error, 1)
	go func() {
		o := ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.entry.*"}}
		ended <- c.Follow(t.Context(), o, func(r Record) error { heard <- string(r.Data); return nil })
	}()
	testkit.Eventually(t, 20*time.Second, func() bool { return c.Connected() == nil })
	appendTo(t, f, "2", "3")
	for range 3 {
		receive(t, heard)
	}
	server.Shutdown()
	other := startServer(t, embedded.Options{Dir: backup})
	appendTo(t, take(t, connect(t, Options{URL: other.URL()}), "two"), "4", "5", "6", "7")
	other.Shutdown()
	startServer(t, embedded.Options{Dir: backup, Port: portOf(t, url)})
	if err := receive(t, ended); !errors.Is(err, ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", err)
	}
	if len(heard) > 0 {
		t.Errorf("heard %q of the other history", <-heard)
	}
}

// Who reads a stream to its end, and follows it from there, notices that it was made anew in between, and has grown beyond
// what was read (seed 93 of the simulation).
func TestFollowAfterWhatWasReadOfAnotherStreamEnds(t *testing.T) {
	c := startWith(t, ledger)
	appendTo(t, take(t, c, "one"), "1", "2")
	var last Record
	if err := c.Read(t.Context(), ReadOptions{Stream: "LEDGER"}, func(r Record) error { last = r; return nil }); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 64)
	follow := func(ctx context.Context) error {
		return c.Follow(ctx, ReadOptions{Stream: "LEDGER", After: last}, func(r Record) error { heard <- string(r.Data); return nil })
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- follow(ctx) }()
	f := take(t, c, "two")
	receive(t, heard) // the epoch
	appendTo(t, f, "3")
	if got := receive(t, heard); got != "3" {
		t.Errorf("heard %q after what was read, want 3", got)
	}
	end()
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
	if err := c.js.DeleteStream(t.Context(), "LEDGER"); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	appendTo(t, take(t, c, "three"), "4", "5", "6", "7")
	if err := follow(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", err)
	}
	if len(heard) > 0 {
		t.Errorf("heard %q of the other stream", <-heard)
	}
}

// Where only the newest message of a subject is kept, what was read last may be gone for good reasons.
func TestWhoCannotKnowWhetherAStreamIsTheSameIsTold(t *testing.T) {
	stored, unsure := time.Now(), 0
	message := func(sequence uint64, at time.Time) *jetstream.MsgMetadata {
		return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: sequence}, Timestamp: at}
	}
	newReader := func() *reader {
		return &reader{next: 8, last: stored, resume: true, options: ReadOptions{OnUnsure: func() error { unsure++; return nil }}}
	}
	if known, err := newReader().resumes(message(7, stored)); !known || err != nil {
		t.Errorf("the message itself: %t, %v", known, err)
	}
	if _, err := newReader().resumes(message(7, stored.Add(1))); !errors.Is(err, ErrReplaced) || retryable(err) {
		t.Errorf("another in its place: %v", err)
	}
	if known, err := newReader().resumes(message(8, stored)); known || err != nil || unsure != 1 {
		t.Errorf("none in its place: %t, %v, told %d times", known, err, unsure)
	}
}

func TestAnotherStreamOfTheSameNameIsNotGoneOnWith(t *testing.T) {
	made := time.Now()
	stream := func(made time.Time, last uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{Created: made, State: jetstream.StreamState{LastSeq: last}}
	}
	r := &reader{}
	if err := r.check(stream(made, 7)); err != nil || r.end != 7 {
		t.Fatalf("at first: %v, end %d", err, r.end)
	}
	r.next = 8
	for name, now := range map[string]*jetstream.StreamInfo{
		"made anew": stream(made.Add(time.Second), 100), "restored from a backup": stream(made, 5),
	} {
		if err := r.check(now); !errors.Is(err, ErrReplaced) || retryable(err) {
			t.Errorf("%s: %v, want ErrReplaced, which no retry mends", name, err)
		}
	}
	if err := r.check(stream(made, 7)); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestFollowOfAStreamThatWasRemovedEnds(t *testing.T) {
	c := startWith(t, ledger)
	caughtUp, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		o := ReadOptions{Stream: "LEDGER", OnCaughtUp: func() { close(caughtUp) }}
		ended <- c.Follow(t.Context(), o, func(Record) error { return nil })
	}()
	receive(t, caughtUp)
	if err := c.js.DeleteStream(t.Context(), "LEDGER"); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, ended); !errors.Is(err, ErrNoStream) {
		t.Errorf("got %v, want ErrNoStream", err)
	}
}

func TestReadersLeaveNothingOnTheServer(t *testing.T) {
	c := start(t)
	if err := c.EnsureStreams(t.Context(), 1, schemas.StateFacts); err != nil {
		t.Fatal(err)
	}
	o := ReadOptions{Stream: schemas.StateFacts.Name}
	for range 10 {
		if err := c.Read(t.Context(), o, func(Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.OnCaughtUp = cancel
	if err := c.Follow(ctx, o, func(Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	stream, err := c.js.Stream(t.Context(), schemas.StateFacts.Name)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d readers are still kept by the server, want none", n)
	}
}

// An object that changes while STATE is read must not look as if it were gone.
func TestReadMissesNothingThatMovesMeanwhile(t *testing.T) {
	c := start(t)
	if err := c.EnsureStreams(t.Context(), 1, schemas.StateFacts); err != nil {
		t.Fatal(err)
	}
	const objects = 300 // of 64 KiB: more than is under way to a reader at once
	subject := func(i int) string { return schemas.StateSubject("Pod", "a", fmt.Sprint("p", i)) }
	publish := func(i int) {
		if _, err := c.js.Publish(t.Context(), subject(i), make([]byte, 64<<10)); err != nil {
			t.Error(err)
		}
	}
	for i := range objects {
		publish(i)
	}
	seen := map[string]bool{}
	err := c.Read(t.Context(), ReadOptions{Stream: schemas.StateFacts.Name}, func(r Record) error {
		if len(seen) == 0 {
			publish(objects - 1)
		}
		seen[r.Subject] = true
		return nil
	})
	if err != nil || len(seen) != objects || !seen[subject(objects-1)] {
		t.Errorf("%d objects were read, %v; want %d, also the one that changed", len(seen), err, objects)
	}
}

// The last message before silence is lost on its way to somebody who follows: no later one shows the gap, so it is asked
// for whether all has come.
//
// Fault 1: the last message before silence.
func TestFollowFindsThatTheLastMessageIsLost(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	last := appendTo(t, f, "a")
	stream, err := c.js.Stream(t.Context(), "LEDGER")
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{follow: true, caught: true, next: last}
	if err := r.check(stream.CachedInfo()); err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.OrderedConsumer(t.Context(), r.consumer())
	if err != nil {
		t.Fatal(err)
	}
	got, err := consumer.Fetch(2) // sent, and as if lost
	if err != nil {
		t.Fatal(err)
	}
	for range got.Messages() {
	}
	for range silentMost - 1 {
		if done, err := c.quiet(t.Context(), r, stream, consumer); done || err != nil {
			t.Fatalf("it may still come: done %v, %v", done, err)
		}
	}
	if _, err := c.quiet(t.Context(), r, stream, consumer); !errors.Is(err, errUnderWay) || !retryable(err) {
		t.Errorf("it doesn't come: %v, want %v", err, errUnderWay)
	}
	r.next, r.silent = last+1, 0
	if done, err := c.quiet(t.Context(), r, stream, consumer); done || err != nil || r.silent > 0 {
		t.Errorf("all has come: done %v, %v, and %d times silent", done, err, r.silent)
	}
}

// A server with much to do says that nothing is pending seconds before what it has sent arrives. Who took that for the end
// of an epoch's stream believed that it had been removed.
func TestWhatIsUnderWayIsWaitedFor(t *testing.T) {
	info := func(name string, delivered uint64) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{Name: name, Delivered: jetstream.SequenceInfo{Consumer: delivered}}
	}
	for _, test := range []struct {
		name   string
		reader reader
		info   *jetstream.ConsumerInfo
		want   bool
	}{
		{"nothing was sent", reader{}, info("a", 0), false},
		{"nothing has come yet", reader{}, info("a", 1), true},
		{"all has come", reader{through: "a", number: 3}, info("a", 3), false},
		{"the last hasn't", reader{through: "a", number: 2}, info("a", 3), true},
		{"it goes on through another consumer", reader{through: "a", number: 7}, info("b", 1), true},
		{"which has sent nothing", reader{through: "a", number: 7}, info("b", 0), false},
	} {
		if got := test.reader.underWay(test.info); got != test.want {
			t.Errorf("%s: under way %v, want %v", test.name, got, test.want)
		}
	}
}
