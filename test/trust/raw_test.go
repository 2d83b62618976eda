// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

// raw speaks NATS's protocol as an attacker would: without a library that keeps it from saying what it likes.
type raw struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	sids int
}

// delivery is a message that a raw connection was sent.
type delivery struct {
	subject, reply string
	data           []byte // with headers before it, if it has some
}

// knock connects with the credentials and the authority of a folder that trust has made.
func knock(t testing.TB, url, folder string) (*raw, error) {
	t.Helper()
	return knockAs(t, url, filepath.Join(folder, "ca.crt"), filepath.Join(folder, "bus.creds"), "")
}

func knockAs(t testing.TB, url, ca, credentials, token string) (*raw, error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(file(t, ca))
	text := file(t, credentials)
	jwt, err := nkeys.ParseDecoratedJWT(text)
	if err != nil {
		t.Fatal(err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "tls://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := &raw{t: t, conn: conn, in: bufio.NewReader(conn)}
	hello := r.line()
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(hello, "INFO ")), &info); err != nil {
		t.Fatalf("%q: %v", hello, err)
	}
	secured := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	r.conn, r.in = secured, bufio.NewReader(secured)
	signature, err := key.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	say, err := json.Marshal(map[string]any{
		"jwt": jwt, "sig": base64.RawURLEncoding.EncodeToString(signature), "auth_token": token,
		"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "raw", "version": "1", "protocol": 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.send("CONNECT %s\r\n", say)
	_, _, err = r.sync()
	return r, err
}

func file(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (r *raw) send(format string, args ...any) {
	if _, err := fmt.Fprintf(r.conn, format, args...); err != nil {
		r.t.Logf("send: %v", err) // the server has hung up: reading says why
	}
}

func (r *raw) line() string {
	_ = r.conn.SetReadDeadline(time.Now().Add(20 * time.Second)) // fails only when closed
	text, err := r.in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		r.t.Logf("read: %v", err)
	}
	return strings.TrimRight(text, "\r\n")
}

// publish sends data; an empty reply asks for no answer.
func (r *raw) publish(subject, reply string, data []byte) {
	if reply != "" {
		reply += " "
	}
	r.send("PUB %s %s%d\r\n%s\r\n", subject, reply, len(data), data)
}

// subscribe listens from now on.
func (r *raw) subscribe(subject string) {
	r.sids++
	r.send("SUB %s %d\r\n", subject, r.sids)
}

// sync waits until the server has done all that it was told, and returns what it refused and what it has sent meanwhile.
// The error says that the server hung up.
func (r *raw) sync() (refused []string, heard []delivery, err error) {
	r.send("PING\r\n")
	for {
		line := r.line()
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "PONG":
			return refused, heard, nil
		case "PING":
			r.send("PONG\r\n")
		case "-ERR":
			refused = append(refused, strings.Trim(rest, "'"))
		case "MSG", "HMSG":
			heard = append(heard, r.message(rest))
		case "":
			return refused, heard, fmt.Errorf("the server hung up: %s", strings.Join(refused, "; "))
		}
	}
}

// message reads the rest of MSG (subject sid [reply] size) or HMSG (subject sid [reply] header-size size).
func (r *raw) message(rest string) delivery {
	fields := strings.Fields(rest)
	d := delivery{subject: fields[0]}
	size, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		r.t.Fatalf("MSG %s: %v", rest, err)
	}
	if len(fields) > 3 && !isNumber(fields[2]) {
		d.reply = fields[2]
	}
	d.data = make([]byte, size+2)
	if _, err := io.ReadFull(r.in, d.data); err != nil {
		r.t.Fatalf("MSG %s: %v", rest, err)
	}
	d.data = d.data[:size]
	return d
}

func isNumber(text string) bool {
	_, err := strconv.Atoi(text)
	return err == nil
}
