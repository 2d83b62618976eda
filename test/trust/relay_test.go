// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/deltaplane/deltaplane/schemas"
)

// kind is what a message on the bus is to whoever gets it.
type kind string

// What a bus could gain something by.
const (
	aDelta      kind = "delta"
	aHeartbeat  kind = "heartbeat"
	anAnswer    kind = "answer"
	aFact       kind = "fact"
	aCheckpoint kind = "checkpoint"
	aHold       kind = "hold"
	another     kind = ""
)

// misdeed is what a relay does with a message.
type misdeed string

const (
	flip    misdeed = "flip"    // one bit, another one in each
	drop    misdeed = "drop"    // it
	twice   misdeed = "twice"   // at once
	reorder misdeed = "reorder" // after the next that goes to the same listener
	delay   misdeed = "delay"   // after the next five
	replay  misdeed = "replay"  // the first of the kind in its place
)

// overtaken is by how many messages one is that comes late.
var overtaken = map[misdeed]int{reorder: 1, delay: 5}

// relay stands between a service and the real server, as a server in other hands would: it speaks the protocol that both
// do (docs.nats.io, Client Protocol), and does what it likes with the messages that the service is sent.
type relay struct {
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu    sync.Mutex
	does  misdeed
	to    kind
	times int               // that are to come
	count int               // of all that were done
	first map[kind]*message // that came
}

// message is a MSG or HMSG of the protocol.
type message struct {
	subject, sid, reply string
	headers             int // of data, bytes
	data                []byte
}

// newRelay listens for services, until the test's end.
func newRelay(t *testing.T, server string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, server: strings.TrimPrefix(server, "nats://"), first: map[kind]*message{}}
	r.running.Go(r.accept)
	t.Cleanup(func() {
		_ = listener.Close() // ends accept
		r.running.Wait()
	})
	return r
}

func (r *relay) url() string { return "nats://" + r.listener.Addr().String() }

// plays has something done to the next messages of a kind, so many times.
func (r *relay) plays(does misdeed, to kind, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.does, r.to, r.times = does, to, times
}

// played says whether it was.
func (r *relay) played() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times == 0
}

func (r *relay) accept() {
	for {
		service, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.server)
		if err != nil {
			_ = service.Close() // it tries again
			continue
		}
		r.running.Go(func() {
			_, _ = io.Copy(server, service) // ends when either does
			_ = server.Close()
		})
		r.running.Go(func() {
			(&line{relay: r, to: service}).carry(bufio.NewReader(server))
			_ = service.Close()
		})
	}
}

// line is what one service is sent.
type line struct {
	*relay
	to   io.Writer
	late []*late
}

// late is a message that is sent after so many others to the same listener.
type late struct {
	*message
	after int
}

// carry reads what the server says until it says no more.
func (l *line) carry(server *bufio.Reader) {
	for {
		text, err := server.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimRight(text, "\r\n"), " ")
		if verb != "MSG" && verb != "HMSG" {
			l.write([]byte(text))
			continue
		}
		m, err := readMessage(verb, rest, server)
		if err != nil {
			return
		}
		l.pass(m)
	}
}

// readMessage reads what follows MSG (subject sid [reply] size) or HMSG (subject sid [reply] header-size size).
func readMessage(verb, rest string, server *bufio.Reader) (*message, error) {
	fields, sizes := strings.Fields(rest), 1
	if verb == "HMSG" {
		sizes = 2
	}
	m := &message{subject: fields[0], sid: fields[1]}
	if len(fields) > 2+sizes {
		m.reply = fields[2]
	}
	size, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, rest, err)
	}
	if sizes == 2 {
		if m.headers, err = strconv.Atoi(fields[len(fields)-2]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", verb, rest, err)
		}
	}
	m.data = make([]byte, size+2)
	_, err = io.ReadFull(server, m.data)
	m.data = m.data[:size]
	return m, err
}

func (l *line) say(m *message) {
	text := m.subject + " " + m.sid + " "
	if m.reply != "" {
		text += m.reply + " "
	}
	if m.headers > 0 {
		text = fmt.Sprintf("HMSG %s%d %d\r\n", text, m.headers, len(m.data))
	} else {
		text = fmt.Sprintf("MSG %s%d\r\n", text, len(m.data))
	}
	l.write([]byte(text), m.data, []byte("\r\n"))
}

func (l *line) write(parts ...[]byte) {
	_, _ = l.to.Write(bytes.Join(parts, nil)) // a service that is gone hears no more
}

// pass hands a message on, or does to it what the relay does, and hands on those that it has overtaken.
func (l *line) pass(m *message) {
	for _, other := range l.instead(m) {
		l.say(other)
	}
	for _, other := range l.late {
		if other.sid == m.sid && other.message != m {
			other.after--
		}
		if other.after == 0 {
			l.say(other.message)
		}
	}
	l.late = slices.DeleteFunc(l.late, func(m *late) bool { return m.after == 0 })
}

// instead returns what is said in the place of a message now.
func (l *line) instead(m *message) []*message {
	r := l.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	k := kindOf(m)
	first := r.first[k]
	if first == nil {
		first = m
		r.first[k] = m
	}
	if k == another || k != r.to || r.times == 0 {
		return []*message{m}
	}
	r.times--
	r.count++
	switch r.does {
	case flip:
		bit := r.count * 37 % (8 * len(m.body()))
		m = &message{m.subject, m.sid, m.reply, m.headers, bytes.Clone(m.data)}
		m.body()[bit/8] ^= 1 << (bit % 8)
	case drop:
		return nil
	case twice:
		return []*message{m, m}
	case reorder, delay:
		l.late = append(l.late, &late{m, overtaken[r.does]})
		return nil
	case replay:
		m = &message{first.subject, m.sid, m.reply, first.headers, first.data}
	}
	return []*message{m}
}

func (m *message) body() []byte { return m.data[m.headers:] }

func kindOf(m *message) kind {
	switch {
	case len(m.body()) == 0:
		return another
	case m.subject == schemas.SubjectHeartbeat:
		return aHeartbeat
	case matches(schemas.SubjectAllApply, m.subject):
		return aDelta
	case m.subject == schemas.SubjectHold:
		return aHold
	case m.subject == schemas.SubjectCheckpoint:
		return aCheckpoint
	case matches(schemas.SubjectAllState, m.subject):
		return aFact
	case strings.HasPrefix(m.subject, schemas.InboxPrefix("")) && !bytes.HasPrefix(m.body(), []byte("{")):
		return anAnswer // what JetStream answers is JSON
	}
	return another
}

// matches says whether a subject is below one that ends in a wildcard.
func matches(all, subject string) bool {
	return strings.HasPrefix(subject, strings.TrimRight(all, "*>"))
}
