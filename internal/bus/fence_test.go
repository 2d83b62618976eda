// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

func take(t testing.TB, c *Conn, holder string) *Fence {
	t.Helper()
	f, err := c.TakeEpoch(t.Context(), "LEDGER", ledgerEpoch, holder)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// read returns what is stored as "subject=data".
func read(t testing.TB, c *Conn, o ReadOptions) []string {
	t.Helper()
	var got []string
	err := c.Read(t.Context(), o, func(r Record) error {
		got = append(got, r.Subject+"="+string(r.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func entries(t testing.TB, c *Conn) []string {
	t.Helper()
	return read(t, c, ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.entry.*"}})
}

func records(text ...string) []Record {
	var all []Record
	for i, s := range text {
		all = append(all, Record{Subject: fmt.Sprintf("ledger.entry.%d", i), Data: []byte(s)})
	}
	return all
}

func TestBatchIsStoredInOrder(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	last, err := f.Append(t.Context(), records("a", "b", "c"))
	if err != nil || last != 4 {
		t.Fatalf("last sequence %d, %v; want 4: the epoch and three", last, err)
	}
	if last, err = f.Append(t.Context(), records("d")); err != nil || last != 5 {
		t.Fatalf("last sequence %d, %v; want 5", last, err)
	}
	want := []string{"ledger.entry.0=a", "ledger.entry.1=b", "ledger.entry.2=c", "ledger.entry.0=d"}
	if diff := cmp.Diff(want, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestDeposedHolderStoresNothing(t *testing.T) {
	c := startWith(t, ledger)
	old := take(t, c, "old")
	young := take(t, c, "young")
	if old.Epoch() != 1 || young.Epoch() != 2 {
		t.Fatalf("epochs %d and %d, want 1 and 2", old.Epoch(), young.Epoch())
	}
	for _, batch := range [][]Record{records("x"), records("x", "y", "z")} {
		_, err := old.Append(t.Context(), batch)
		if !errors.Is(err, ErrDeposed) {
			t.Errorf("%d messages: %v, want ErrDeposed", len(batch), err)
		}
		wantError(t, err, "stream LEDGER in epoch 1", "another has taken the epoch")
	}
	if _, err := young.Append(t.Context(), records("a", "b")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ledger.entry.0=a", "ledger.entry.1=b"}, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyOneOfManyHoldsTheEpochInTheEnd(t *testing.T) {
	c := startWith(t, ledger)
	type result struct {
		fence *Fence
		err   error
	}
	taken := make(chan result, 8)
	for i := range cap(taken) {
		go func() {
			f, err := c.TakeEpoch(t.Context(), "LEDGER", ledgerEpoch, fmt.Sprint("rival ", i))
			taken <- result{f, err}
		}()
	}
	var all []result
	for range cap(taken) {
		all = append(all, receive(t, taken))
	}
	epochs, appended := map[uint64]bool{}, 0
	for _, r := range all {
		if r.err != nil {
			if !errors.Is(r.err, ErrDeposed) {
				t.Errorf("%v is not ErrDeposed", r.err)
			}
			continue
		}
		if epochs[r.fence.Epoch()] {
			t.Errorf("epoch %d was given twice", r.fence.Epoch())
		}
		epochs[r.fence.Epoch()] = true
		if _, err := r.fence.Append(t.Context(), records("mine")); err == nil {
			appended++
		}
	}
	if appended != 1 {
		t.Errorf("%d of %d that took the epoch could append; want one", appended, len(epochs))
	}
}

func TestAHolderAsksWhetherTheEpochIsStillItsOwn(t *testing.T) {
	c := startWith(t, ledger)
	old := take(t, c, "old")
	if err := old.Confirm(t.Context()); err != nil {
		t.Errorf("nobody else took it: %v", err)
	}
	if _, err := old.Append(t.Context(), records("a", "b")); err != nil {
		t.Errorf("after it was confirmed: %v", err)
	}
	young := take(t, c, "young")
	if young.Epoch() != 2 {
		t.Errorf("epoch %d, want 2: confirming takes none", young.Epoch())
	}
	if err := old.Confirm(t.Context()); !errors.Is(err, ErrDeposed) {
		t.Errorf("after another took it: %v, want ErrDeposed", err)
	}
}

// Sequences begin anew in a stream that was lost: the epoch of another may stand where the holder's did, so that the fence
// holds. Whoever asks is told.
//
// Fault 5: a stream was lost and made anew, or another's backup restored.
func TestAHolderOfALostStreamIsToldSo(t *testing.T) {
	c := startWith(t, ledger)
	old := take(t, c, "old")
	if err := c.js.DeleteStream(t.Context(), ledger.Name); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	take(t, c, "young")
	if err := old.Confirm(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Errorf("%v, want ErrReplaced", err)
	}
}

func TestEpochIsTakenAboveWhatNodesHold(t *testing.T) {
	c := startWith(t, ledger)
	f, err := c.TakeEpochAbove(t.Context(), "LEDGER", ledgerEpoch, "after a lost stream", 41)
	if err != nil || f.Epoch() != 42 {
		t.Errorf("epoch %d, %v; want 42", f.Epoch(), err)
	}
}

// The fence must outlive the stream's maximal age, and a log that is full.
func TestEpochOutlivesWhatTheStreamForgets(t *testing.T) {
	short := ledger
	short.MaxAge, short.MaxBytes = 300*time.Millisecond, 10<<20
	c := startWith(t, short)
	f := take(t, c, "one")
	if _, err := f.Append(t.Context(), records("a", "b")); err != nil {
		t.Fatal(err)
	}
	for len(entries(t, c)) > 0 {
		if wait(t.Context(), 50*time.Millisecond) != nil {
			t.Fatal("the entries don't age")
		}
	}
	megabyte := strings.Repeat("x", 1<<20-8<<10)
	for range 24 {
		if _, err := f.Append(t.Context(), records(megabyte)); err != nil {
			t.Fatal(err)
		}
	}
	if got := take(t, c, "two").Epoch(); got != 2 {
		t.Errorf("epoch %d, want 2: the first was forgotten", got)
	}
	if _, err := f.Append(t.Context(), records("late")); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old holder: %v, want ErrDeposed", err)
	}
}

func TestMessagesEndAtTheirTime(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	batch := records("tombstone", "kept")
	batch[0].TTL = time.Second
	if _, err := f.Append(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	want := []string{"ledger.entry.1=kept"}
	for cmp.Diff(want, entries(t, c)) != "" {
		if wait(t.Context(), 50*time.Millisecond) != nil {
			t.Fatal("the tombstone doesn't end")
		}
	}
}

func TestBatchThatIsTooLargeIsRefusedBeforeItIsSent(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	for name, batch := range map[string][]Record{
		"messages":         make([]Record, MaxBatchMessages+1),
		"a message of":     {{Subject: "ledger.entry.0", Data: make([]byte, 2<<20)}},
		"bytes in one bat": many(80, 1<<20-8<<10),
	} {
		_, err := f.Append(t.Context(), batch)
		wantError(t, err, "append to stream LEDGER", name, "the most is")
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v is not ErrTooLarge", err)
		}
	}
	if _, err := f.Append(t.Context(), many(MaxBatchMessages, 10)); err != nil {
		t.Errorf("the longest batch: %v", err)
	}
	if n := len(entries(t, c)); n != MaxBatchMessages {
		t.Errorf("%d of %d are stored", n, MaxBatchMessages)
	}
}

func many(n, size int) []Record {
	all := make([]Record, n)
	for i := range all {
		all[i] = Record{Subject: fmt.Sprintf("ledger.entry.%d", i), Data: make([]byte, size)}
	}
	return all
}

func TestEpochOfAStreamThatIsNotThere(t *testing.T) {
	c := start(t)
	_, err := c.TakeEpoch(t.Context(), "LEDGER", ledgerEpoch, "one")
	wantError(t, err, "take the epoch of stream LEDGER: the stream doesn't exist")
	if !errors.Is(err, ErrNoStream) {
		t.Errorf("%v is not ErrNoStream", err)
	}
}

func TestAppendToAStreamThatWasRemoved(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	if err := c.js.DeleteStream(t.Context(), "LEDGER"); err != nil {
		t.Fatal(err)
	}
	for _, batch := range [][]Record{records("a"), records("a", "b")} {
		if _, err := f.Append(t.Context(), batch); !errors.Is(err, ErrNoStream) {
			t.Errorf("%d messages: %v, want ErrNoStream", len(batch), err)
		}
	}
}

func TestAppendWithoutAnAnswerIsUncertain(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Append(ctx, records("a", "b")); !errors.Is(err, ErrUncertain) {
		t.Errorf("%v, want ErrUncertain", err)
	}
}

func TestAppendWhileTheServerIsAwayFailsAtOnce(t *testing.T) {
	server := startServer(t, embedded.Options{})
	lost := make(chan error, 1)
	c := connect(t, Options{URL: server.URL(), OnDisconnect: func(err error) { lost <- err }})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	server.Shutdown()
	receive(t, lost)
	_, err := f.Append(t.Context(), records("a", "b"))
	wantError(t, err, "append 2 messages to stream LEDGER", "not connected to the bus at")
}

// A restart of the server deposes nobody: the epoch is in the stream.
func TestFenceHoldsOverARestart(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, embedded.Options{Dir: dir})
	back := make(chan struct{}, 1)
	c := connect(t, Options{URL: server.URL(), OnReconnect: func() { back <- struct{}{} }})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	appendTo(t, f, "a", "b")
	server.Shutdown()
	startServer(t, embedded.Options{Dir: dir, Port: portOf(t, server.URL())})
	receive(t, back)
	appendTo(t, f, "c", "d")
	want := []string{"ledger.entry.0=a", "ledger.entry.1=b", "ledger.entry.0=c", "ledger.entry.1=d"}
	if diff := cmp.Diff(want, entries(t, c)); diff != "" {
		t.Error(diff)
	}
}

// TestAStreamThatWentBackWithinAnEpochIsNoticed restores a backup that was taken after the epoch: its fence holds.
//
// Fault 5: an old backup is restored while nobody else leads.
func TestAStreamThatWentBackWithinAnEpochIsNoticed(t *testing.T) {
	dir, backup := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	server := startServer(t, embedded.Options{Dir: dir})
	back := make(chan struct{}, 1)
	c := connect(t, Options{URL: server.URL(), OnReconnect: func() { back <- struct{}{} }})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "one")
	again := func(between func()) {
		port := portOf(t, server.URL())
		server.Shutdown()
		between()
		server = startServer(t, embedded.Options{Dir: dir, Port: port})
		receive(t, back)
	}
	again(func() {
		if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := f.Append(t.Context(), records("a", "b")); err != nil {
		t.Fatal(err)
	}
	newest := f.Newest()
	again(func() {
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(backup))); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := f.Append(t.Context(), records("c")); !errors.Is(err, ErrReplaced) {
		t.Errorf("%v, want ErrReplaced", err)
	}
	if f.Newest() != newest {
		t.Errorf("the newest message is %d, want %d as before", f.Newest(), newest)
	}
}

// This is the measurement that docs/adr/0008 rests on: who acts on deltas must not subscribe to a stream's subjects.
func TestBatchReachesPlainSubscribersBeforeItIsStored(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "one")
	heard := make(chan string, 16)
	if _, err := c.Subscribe("ledger.entry.*", func(m Message) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	batch := f.messages(records("first", "second"), false)
	first := batch[0]
	first.Header.Set(headerBatchID, "never committed")
	first.Header.Set(headerBatchSequence, "1")
	if err := c.nats.PublishMsg(first); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, heard); got != "first" || len(entries(t, c)) != 0 {
		t.Errorf("heard %q with %v stored", got, entries(t, c))
	}
	take(t, c, "two")
	if _, err := f.Append(t.Context(), records("refused 1", "refused 2")); !errors.Is(err, ErrDeposed) {
		t.Fatalf("%v, want ErrDeposed", err)
	}
	if diff := cmp.Diff([]string{"refused 1", "refused 2"}, []string{receive(t, heard), receive(t, heard)}); diff != "" {
		t.Errorf("what a plain subscriber hears of a refused batch:\n%s", diff)
	}
}

func TestStreamThatTakesNoBatchesSaysSo(t *testing.T) {
	single := ledger
	single.Atomic = false
	c := startWith(t, single)
	f := take(t, c, "one") // one message is no batch
	_, err := f.Append(t.Context(), records("a", "b"))
	wantError(t, err, "the stream refused it", "atomic publish is disabled")
}

func TestAnswersOfStreamsAreUnderstood(t *testing.T) {
	for _, test := range []struct {
		answer string
		count  int
		want   error
	}{
		{`{"stream":"S","seq":7,"batch":"b","count":3}`, 3, nil},
		{`{"stream":"S","seq":7}`, 1, nil},
		{`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"}}`, 3, ErrDeposed},
		{`{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}`, 3, ErrDeposed},
		{`{"stream":"S","seq":7,"batch":"b","count":2}`, 3, ErrUncertain},
		{`not JSON`, 3, ErrUncertain},
	} {
		if _, err := readAck([]byte(test.answer), test.count); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.answer, err, test.want)
		}
	}
	_, err := readAck([]byte(`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`), 1)
	wantError(t, err, "the stream couldn't store it", "maximum bytes exceeded", "raise its size")
	_, err = readAck([]byte(`{"error":{"code":400,"err_code":10199,"description":"atomic publish batch is too large: 1000"}}`), 3)
	wantError(t, err, "the stream refused it", "too large: 1000")
}

// A full state says so and keeps what it has; one object changed twice in a batch is kept as it was last.
func TestStateThatIsFullRefusesWhatIsNew(t *testing.T) {
	state := ledger
	state.LastPerSubject, state.MaxAge, state.MaxBytes = true, 0, 64<<10
	c := startWith(t, state)
	f := take(t, c, "one")
	twice := []Record{{Subject: "ledger.entry.0", Data: []byte("was")}, {Subject: "ledger.entry.0", Data: []byte("is")}}
	if _, err := f.Append(t.Context(), twice); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 1; err == nil && i < 100; i++ {
		_, err = f.Append(t.Context(), []Record{{Subject: fmt.Sprint("ledger.entry.", i), Data: make([]byte, 4<<10)}})
	}
	wantError(t, err, "append 1 messages to stream LEDGER", "maximum bytes exceeded")
	if got := entries(t, c); len(got) == 0 || got[0] != "ledger.entry.0=is" {
		t.Errorf("the oldest object is lost: %.40q", got)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch of %d", n), func(b *testing.B) {
			c := startWith(b, ledger)
			f := take(b, c, "one")
			batch := many(n, 200)
			for b.Loop() {
				if _, err := f.Append(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	c := start(b)
	data := make([]byte, 200)
	for b.Loop() {
		if err := c.Publish("some.subject", data); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		b.Fatal(err)
	}
}

// An epoch that is forged as high as it is believed deposes its holder, and leaves as many epochs as seconds are to come.
//
// Fault 13: the bus writes epochs of its own.
func TestForgedEpochsDoNotLeadToTheEndOfNumbers(t *testing.T) {
	c := startWith(t, ledger)
	first := take(t, c, "first")
	highest := uint64(time.Now().Unix()) + 1<<30
	if err := c.Publish(ledgerEpoch, epochOf(t, highest)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Append(t.Context(), records("a")); !errors.Is(err, ErrDeposed) {
		t.Errorf("the holder is told %v, want ErrDeposed", err)
	}
	testkit.Eventually(t, 10*time.Second, func() bool { return time.Now().Unix() > int64(highest)-1<<30 })
	second := take(t, c, "second")
	if second.Epoch() != highest+1 {
		t.Errorf("epoch %d follows, want %d", second.Epoch(), highest+1)
	}
	if err := c.Publish(ledgerEpoch, epochOf(t, highest+1000)); err != nil {
		t.Fatal(err)
	}
	if third := take(t, c, "third"); third.Epoch() != highest+2 {
		t.Errorf("epoch %d follows one that there can't be yet, want %d", third.Epoch(), highest+2)
	}
}

func epochOf(t *testing.T, n uint64) []byte {
	t.Helper()
	data, err := proto.Marshal(&schemas.Epoch{Epoch: n, Holder: "whoever has the bus"})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestForeignMessageOnTheEpochSubjectIsPassedOver(t *testing.T) {
	c := start(t)
	if err := c.EnsureStreams(t.Context(), 1, schemas.Deltas); err != nil {
		t.Fatal(err)
	}
	first, err := c.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "first")
	if err != nil {
		t.Fatal(err)
	}
	for _, foreign := range []string{"hello", "", string(epochOf(t, 1<<64-1)), string(epochOf(t, 1<<40))} {
		if err := c.Publish(schemas.SubjectEpoch, []byte(foreign)); err != nil {
			t.Fatal(err)
		}
	}
	second, err := c.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "second")
	if err != nil || second.Epoch() != first.Epoch()+1 {
		t.Fatalf("epoch %v, %v; want the one after %d", second, err, first.Epoch())
	}
	if _, err := first.Append(t.Context(), []Record{{Subject: schemas.DeltaSubject("cluster"), Data: []byte("b")}}); !errors.Is(err, ErrDeposed) {
		t.Errorf("the first may still append: %v", err)
	}
}
