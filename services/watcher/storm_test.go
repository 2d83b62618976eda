// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

var storm = flag.Int("storm", 200, "how many connections show bad tokens while nodes join")

// asked counts the questions to the API server about tokens that aren't good.
type asked struct {
	tokens
	bad atomic.Int64
}

func (a *asked) Review(ctx context.Context, token string) (kube.Proof, error) {
	proof, err := a.tokens.Review(ctx, token)
	if err != nil {
		a.bad.Add(1)
	}
	return proof, err
}

// One machine knocks all the time, at a server with the deployed configuration, each time with another token, while nodes
// join: all of them come in, and the API server hears little of it.
//
// Fault 13: floods of joins.
func TestNodesJoinWhileOneMachineFloodsTheDoor(t *testing.T) {
	const nodes, knockers = 10, 8
	api := &asked{tokens: tokens{}}
	for n := range nodes {
		api.tokens[fmt.Sprint("good ", n)] = fmt.Sprint("node-", n)
	}
	h := newHouse(t, api)
	begun := time.Now()
	var flood sync.WaitGroup
	var knocks, let atomic.Int64
	for range knockers {
		flood.Go(func() {
			for n := knocks.Add(1); n <= int64(*storm); n = knocks.Add(1) {
				if h.flood(t, fmt.Sprint("bad ", n)) {
					let.Add(1)
				}
			}
		})
	}
	for n := range nodes {
		node := fmt.Sprint("node-", n)
		if _, err := h.enter(t, node, h.knocking(t, fmt.Sprint("good ", n))); err != nil {
			t.Errorf("%s: %v", node, err)
		}
	}
	joined := time.Since(begun)
	flood.Wait()
	took := time.Since(begun)
	t.Logf("%d nodes joined in %v; %d bad tokens in %v: the API server was asked about %d", nodes, joined, *storm, took, api.bad.Load())
	if most := askersAtOnce + reviewsPerAsker*int64(took/time.Second+1); api.bad.Load() > most || let.Load() > 0 {
		t.Errorf("the API server was asked about %d bad tokens, want at most %d; %d were let in", api.bad.Load(), most, let.Load())
	}
}

// flood shows a token from an address of its own, and says whether it was let in.
func (h *house) flood(t *testing.T, token string) bool {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 66)}, Timeout: time.Minute}
	plain, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(h.server.URL(), "tls://"))
	if err != nil {
		t.Error(err)
		return false
	}
	defer plain.Close()
	hello, err := bufio.NewReader(plain).ReadString('\n')
	var info struct{ Nonce string }
	if err != nil || json.Unmarshal([]byte(strings.TrimPrefix(hello, "INFO ")), &info) != nil {
		t.Errorf("the server says %q, %v", hello, err)
		return false
	}
	own := h.folder.Path("programmer")
	ca, err := os.ReadFile(filepath.Join(own, trust.FileCA))
	if err != nil {
		t.Error(err)
		return false
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn := tls.Client(plain, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	knock, err := trust.ReadCredential(filepath.Join(own, trust.FileJoin))
	if err != nil {
		t.Error(err)
		return false
	}
	signature, err := knock.Sign([]byte(info.Nonce))
	if err != nil {
		t.Error(err)
		return false
	}
	say, err := json.Marshal(map[string]any{
		"jwt": knock.JWT, "sig": base64.RawURLEncoding.EncodeToString(signature), "auth_token": token, "protocol": 1, "lang": "raw", "version": "1",
	})
	if err != nil {
		t.Error(err)
		return false
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", say); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute)) // fails only when closed
	answer, _ := io.ReadAll(io.LimitReader(conn, 1<<16))  // the server hangs up
	return strings.Contains(string(answer), "PONG")
}
