// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/schemas"
)

// ledger is a stream like DELTA, with subjects of the tests' own.
var ledger = schemas.Stream{
	Name: "LEDGER", Subjects: []string{"ledger.>"}, MaxBytes: 64 << 20, MaxAge: time.Hour, Atomic: true, Expiring: true,
	Description: "A log for tests.",
}

const ledgerEpoch = "ledger.epoch"

func startWith(t testing.TB, streams ...schemas.Stream) *Conn {
	t.Helper()
	c := start(t)
	if err := c.EnsureStreams(t.Context(), 1, streams...); err != nil {
		t.Fatal(err)
	}
	return c
}

func configOf(t testing.TB, c *Conn, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := c.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

func TestStreamsOfThePipelineAreMadeAsDescribed(t *testing.T) {
	c := startWith(t, schemas.Streams...)
	for _, s := range schemas.Streams {
		got := configOf(t, c, s.Name)
		if diff := cmp.Diff(describe(got, s, 1), got); diff != "" {
			t.Errorf("stream %s (-want +got):\n%s", s.Name, diff)
		}
	}
	facts := configOf(t, c, schemas.StateFacts.Name)
	if facts.MaxMsgsPerSubject != 1 || facts.Discard != jetstream.DiscardNew {
		t.Errorf("STATE keeps %d per subject and discards %v when full: it must not lose objects silently",
			facts.MaxMsgsPerSubject, facts.Discard)
	}
}

func TestStreamsThatAreThereAreChangedInPlace(t *testing.T) {
	c := startWith(t, ledger)
	f := take(t, c, "first")
	if _, err := f.Append(t.Context(), []Record{{Subject: "ledger.a", Data: []byte("kept")}}); err != nil {
		t.Fatal(err)
	}
	changed := ledger
	changed.MaxAge, changed.Description = 2*time.Hour, "Changed."
	if err := c.EnsureStreams(t.Context(), 1, changed); err != nil {
		t.Fatal(err)
	}
	if got := configOf(t, c, "LEDGER"); got.MaxAge != 2*time.Hour || got.Description != "Changed." {
		t.Errorf("not changed: %+v", got)
	}
	if diff := cmp.Diff([]string{"ledger.a=kept"}, read(t, c, ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.a"}})); diff != "" {
		t.Error(diff)
	}
}

func TestStreamThatCannotBeChangedIsNamed(t *testing.T) {
	c := start(t)
	_, err := c.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "LEDGER", Subjects: []string{"ledger.>"}, Storage: jetstream.MemoryStorage,
	})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, c.EnsureStreams(t.Context(), 1, ledger), "stream LEDGER is there with Memory storage", "remove it")
}

func TestSubjectsOfAnotherStreamAreNamed(t *testing.T) {
	c := startWith(t, ledger)
	thief := ledger
	thief.Name = "THIEF"
	wantError(t, c.EnsureStreams(t.Context(), 1, thief), "create stream THIEF", "overlap")
}

func TestMoreReplicasThanServersAreNamed(t *testing.T) {
	c := start(t)
	wantError(t, c.EnsureStreams(t.Context(), 3, ledger), "create stream LEDGER with 3 replicas", "replicas > 1 not supported")
}

func TestServerWithoutRoomIsNamed(t *testing.T) {
	file := write(t, "host: 127.0.0.1\nport: -1\njetstream { max_file_store: 1MB }\n")
	server := startServer(t, embedded.Options{ConfigFile: file, Dir: t.TempDir()})
	c := connect(t, Options{URL: server.URL()})
	wantError(t, c.EnsureStreams(t.Context(), 1, ledger), "create stream LEDGER", "too little storage left", "max_file_store")
}

func TestAccountWithoutStreamsIsNamed(t *testing.T) {
	file := write(t, "host: 127.0.0.1\nport: -1\naccounts { A: { users: [{user: a, password: a}] } }\n")
	server := startServer(t, embedded.Options{ConfigFile: file, Dir: t.TempDir()})
	c := connect(t, Options{URL: strings.Replace(server.URL(), "nats://", "nats://a:a@", 1)})
	wantError(t, c.EnsureStreams(t.Context(), 1, ledger), "stream LEDGER", "keeps no streams", "JetStream")
}

// The server answers a forbidden publish to nobody in particular; who asks sees a timeout, and only the log says why.
func TestWhatTheServerForbidsIsLoggedWithItsReason(t *testing.T) {
	file := write(t, `host: 127.0.0.1
port: -1
authorization { users: [{user: a, password: a, permissions: {publish: "allowed.>"}}] }
`)
	server := startServer(t, embedded.Options{ConfigFile: file, Dir: t.TempDir()})
	l, logger := newLog()
	c := connect(t, Options{URL: strings.Replace(server.URL(), "nats://", "nats://a:a@", 1), Log: logger})
	if err := c.Publish("forbidden", nil); err != nil {
		t.Fatal(err)
	}
	l.waitFor(t, "the bus refused something")
	l.waitFor(t, `Permissions Violation for Publish to \"forbidden\"`)
	if strings.Contains(l.text.String(), "a:a@") {
		t.Error("the password is in the log")
	}
}

func TestWrongPasswordIsTriedAgainAndSaid(t *testing.T) {
	file := write(t, "host: 127.0.0.1\nport: -1\nauthorization { user: a, password: b }\n")
	server := startServer(t, embedded.Options{ConfigFile: file, Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	l, logger := newLog()
	go func() { l.waitFor(t, "the bus is away"); cancel() }()
	_, err := Connect(ctx, Options{URL: server.URL(), Name: "test", Log: logger})
	wantError(t, err, "connect to the bus", "Authorization Violation")
}

func TestStreamsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, embedded.Options{Dir: dir})
	c := connect(t, Options{URL: server.URL()})
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "first")
	if _, err := f.Append(t.Context(), []Record{{Subject: "ledger.a", Data: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	server.Shutdown()
	c = connect(t, Options{URL: startServer(t, embedded.Options{Dir: dir}).URL()})
	if got := take(t, c, "second").Epoch(); got != 2 {
		t.Errorf("epoch %d after the restart, want 2", got)
	}
	if diff := cmp.Diff([]string{"ledger.a=1"}, read(t, c, ReadOptions{Stream: "LEDGER", Subjects: []string{"ledger.a"}})); diff != "" {
		t.Error(diff)
	}
}

func TestHowAStreamStands(t *testing.T) {
	c := start(t)
	is, err := c.StreamState(t.Context(), "LEDGER")
	if err != nil || !is.Missing {
		t.Fatalf("before it is made: %+v, %v", is, err)
	}
	if err := c.EnsureStreams(t.Context(), 1, ledger); err != nil {
		t.Fatal(err)
	}
	f := take(t, c, "first")
	if _, err := f.Append(t.Context(), []Record{{Subject: "ledger.a", Data: []byte("kept")}}); err != nil {
		t.Fatal(err)
	}
	is, err = c.StreamState(t.Context(), "LEDGER")
	if err != nil || is.Missing || is.Last != is.Messages || is.Bytes == 0 || is.MaxBytes != 64<<20 || is.Copies != 1 || is.Leader == "" || is.Made.IsZero() {
		t.Errorf("with an epoch and a message: %+v, %v", is, err)
	}
}

// Promise P5: nodes may say all the time that they are there, since a stream forgets that soon.
func TestWhatExpiresLeavesTheStream(t *testing.T) {
	conn := startWith(t, schemas.AppliedReports)
	for subject, ttl := range map[string]time.Duration{"a": time.Second, "b": 0} {
		if err := conn.PublishExpiring(schemas.AppliedSubject(subject), []byte("x"), ttl); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "see what expires leave", func() error {
		is, err := conn.StreamState(t.Context(), schemas.AppliedReports.Name)
		if err == nil && (is.Last != 2 || is.Messages != 1) {
			err = fmt.Errorf("%d messages of %d are stored", is.Messages, is.Last)
		}
		return err
	})
}

func TestAStreamThatWasMadeLargerStaysSo(t *testing.T) {
	conn := startWith(t, ledger)
	large := ledger
	large.MaxBytes *= 2
	for _, s := range []schemas.Stream{large, ledger} {
		if err := conn.EnsureStreams(t.Context(), 1, s); err != nil {
			t.Fatal(err)
		}
		if is, err := conn.StreamState(t.Context(), s.Name); err != nil || is.MaxBytes != uint64(large.MaxBytes) {
			t.Errorf("%d bytes, want %d (%v)", is.MaxBytes, large.MaxBytes, err)
		}
	}
}

// The server may still be busy removing the files of a stream when one of the same name is wanted.
func TestAStreamWhoseFolderIsNotFreeYetIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	l, logger := newLog()
	c := connect(t, Options{URL: startServer(t, embedded.Options{Dir: dir}).URL(), Log: logger})
	folder := filepath.Join(dir, "jetstream", "$G", "streams", "LEDGER")
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() { made <- c.EnsureStreams(t.Context(), 1, ledger) }()
	l.waitFor(t, "trying again")
	os.Remove(folder) // where the server hasn't
	if err := receive(t, made); err != nil {
		t.Error(err)
	}
}
