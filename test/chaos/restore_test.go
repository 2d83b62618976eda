// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/deltaplane/deltaplane/internal/streams"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// backup is a stream as the JetStream API hands it out, and takes it back: `nats stream backup` and `restore` do the same.
type backup struct {
	stream string
	about  []byte // its configuration and state
	chunks [][]byte
}

// chunkBytes is how much of a backup goes in one message.
const chunkBytes = 64 << 10

// Fault 5: somebody restores an old backup of STATE, and of DELTA, by the bus's own commands while everything runs: people are
// told, nodes write nothing, and each change comes to them.
// Promise P3: one stream that went back takes no node back.
func TestAStreamIsRestored(t *testing.T) {
	e := begin(t, "a stream restored from a backup")
	var backups []backup
	for _, stream := range []string{schemas.StateFacts.Name, schemas.Deltas.Name} {
		backups = append(backups, e.backup(stream))
	}
	e.whileChanging(func() { e.lasts(pick(time.Second, 5*time.Second)) })
	e.converges(soon)
	for _, b := range backups {
		e.strikes()
		e.restore(b)
		// A compiler that is quicker to write its rows to the log again than anyone is to look at the stream says so itself.
		e.named("event", silentWithin, func() bool { return e.witness.said(e.struck, b.stream, streams.RolledBack, "log_restored") })
		e.converges(soon)
		e.wroteNothing()
		check(t, e.changes.policyChanges(t.Context()))
		e.converges(soon)
	}
	if !*long {
		return
	}
	e.whileChanging(func() {
		for _, b := range backups {
			e.restore(b)
			e.made(b.stream)
		}
	})
	e.converges(soon)
}

// repair connects as people do who repair streams.
func (e *experiment) repair() *nats.Conn {
	e.t.Helper()
	o := e.RepairOptions()
	conn, err := nats.Connect(o.URL, nats.Name(o.Name), nats.Timeout(patience/4), nats.SetCustomDialer(dialer(o.Dial)),
		nats.UserCredentials(o.CredentialsFile), nats.RootCAs(o.RootCAFile), nats.CustomInboxPrefix(schemas.InboxPrefix(trust.RoleAdmin)))
	check(e.t, err)
	return conn
}

// dialer is a function as nats.go wants it.
type dialer func(network, address string) (net.Conn, error)

func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// backup takes one of a stream that changes meanwhile as it likes.
func (e *experiment) backup(stream string) backup {
	e.t.Helper()
	conn := e.repair()
	defer conn.Close()
	b := backup{stream: stream}
	inbox := conn.NewInbox()
	chunks, err := conn.SubscribeSync(inbox)
	check(e.t, err)
	answer, err := api(e.t.Context(), conn, "$JS.API.STREAM.SNAPSHOT."+stream,
		fmt.Sprintf(`{"deliver_subject": %q, "no_consumers": true, "chunk_size": %d}`, inbox, chunkBytes))
	check(e.t, err)
	var about struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	check(e.t, json.Unmarshal(answer, &about))
	b.about, err = json.Marshal(about)
	check(e.t, err)
	for {
		m, err := chunks.NextMsg(patience)
		check(e.t, err)
		if len(m.Data) == 0 {
			return b
		}
		b.chunks = append(b.chunks, m.Data)
		if m.Reply != "" { // the last one has none
			check(e.t, m.Respond(nil)) // else the server doesn't go on
		}
	}
}

// restore removes the stream and puts the backup in its place, before whoever writes it makes it anew.
func (e *experiment) restore(b backup) {
	e.t.Helper()
	conn := e.repair()
	defer conn.Close()
	var err error
	defer func() {
		if err != nil {
			e.t.Logf("restoring stream %s: %v", b.stream, err)
		}
	}()
	waitFor(e.t, "stream "+b.stream+" to be restored", func() bool {
		err = b.restore(e.t.Context(), conn)
		return err == nil
	})
}

func (b backup) restore(ctx context.Context, conn *nats.Conn) error {
	_, _ = api(ctx, conn, "$JS.API.STREAM.DELETE."+b.stream, "") // there may be none
	answer, err := api(ctx, conn, "$JS.API.STREAM.RESTORE."+b.stream, string(b.about))
	if err != nil {
		return err
	}
	var to struct {
		DeliverSubject string `json:"deliver_subject"`
	}
	if err := json.Unmarshal(answer, &to); err != nil {
		return err
	}
	for _, chunk := range b.chunks {
		if _, err := conn.RequestWithContext(ctx, to.DeliverSubject, chunk); err != nil {
			return err
		}
	}
	_, err = api(ctx, conn, to.DeliverSubject, "") // that was all
	return err
}

// api asks the bus for something that it may refuse.
func api(ctx context.Context, conn *nats.Conn, subject, request string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/4)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, subject, []byte(request))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	var answer struct{ Error json.RawMessage }
	if err := json.Unmarshal(m.Data, &answer); err != nil || bytes.HasPrefix(answer.Error, []byte("{")) {
		return nil, fmt.Errorf("%s: %s", subject, m.Data)
	}
	return m.Data, nil
}
