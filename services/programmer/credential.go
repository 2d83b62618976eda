// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

const (
	// askAgain is how long to wait after a credential was asked for, given or not, with a jitter of as much.
	askAgain = 30 * time.Second
	// triesMost is how often a credential may be refused until the token is tried: a busy server refuses, too.
	triesMost = 3
	// credentialFile is the credential's in --credential-dir.
	credentialFile = "node.creds"
)

// member is how this node is one of the cluster's. It joins by showing the token that the kubelet gave to its pod; then
// it gets a credential for a key of its own, which the bus's servers check alone, and connects by that from then on: also
// when the API server is away, or thousands of nodes come back at once.
type member struct {
	node string
	// joinCredentials are those to knock with, and joinToken the pod's token, which the kubelet renews in place.
	joinCredentials, joinToken string
	// path keeps the credential over a restart; empty keeps it in memory.
	path string
	log  *slog.Logger

	// lost says that there is no credential any more.
	lost chan struct{}

	mu      sync.Mutex
	own     trust.Credential
	tries   int  // with servers that answered, since one let this node in
	byToken bool // the last of them
}

func newMember(s *settings, log *slog.Logger) (*member, error) {
	m := &member{node: s.node, joinCredentials: s.joinCredentials, joinToken: s.joinToken, log: log, lost: make(chan struct{}, 1)}
	if s.credentialDir == "" {
		var err error
		m.own, err = trust.NewCredential()
		return m, err
	}
	m.path = filepath.Join(s.credentialDir, credentialFile)
	var err error
	if m.own, err = trust.StoredCredential(m.path, time.Now()); err != nil {
		log.Warn("the credential that was kept is of no use; joining by the ServiceAccount", "error", err)
	}
	return m, nil
}

// identity is who the programmer is at the moment. It is asked each time that a server has answered. Servers that refuse
// a credential that is good by its time may trust another key by now: then every other try is by the token.
func (m *member) identity() (bus.Identity, error) {
	m.mu.Lock()
	own := m.own
	m.tries++
	refused := m.tries > triesMost && m.tries%2 == 0
	m.byToken = refused || !own.Good(time.Now())
	byToken := m.byToken
	m.mu.Unlock()
	if !byToken {
		return bus.Identity{JWT: own.JWT, Sign: own.Sign}, nil
	}
	knock, err := trust.ReadCredential(m.joinCredentials)
	if err != nil {
		return bus.Identity{}, err
	}
	token, err := m.token()
	if err != nil {
		return bus.Identity{}, err
	}
	return bus.Identity{JWT: knock.JWT, Sign: knock.Sign, Token: token}, nil
}

// token is the pod's, as the kubelet has last written it.
func (m *member) token() (string, error) {
	token, err := os.ReadFile(m.joinToken)
	if err != nil {
		return "", fmt.Errorf("read the ServiceAccount token that shows which node this is: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}

// connected is called when a server has let this node in. If it did so by the token, the credential is worth nothing.
func (m *member) connected() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tries = 0; m.byToken {
		m.own.JWT = ""
		select {
		case m.lost <- struct{}{}:
		default:
		}
	}
}

// keep has a credential all the time, until ctx ends: it asks for one when there is none, and half-way to its end.
func (m *member) keep(ctx context.Context, conn *bus.Conn) {
	for {
		m.mu.Lock()
		wait := m.own.Renew(time.Now())
		m.mu.Unlock()
		if !m.pause(ctx, wait) {
			return
		}
		if err := m.ask(ctx, conn); err != nil {
			m.log.Warn("no credential from the watcher; asking again", "error", err)
		}
		// By a clock that is half a day ahead each credential is old at once: it must not ask without end.
		if !m.pause(ctx, askAgain+rand.N(askAgain)) {
			return
		}
	}
}

// pause waits, not longer than there is a credential. It is false when ctx has ended.
func (m *member) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-m.lost:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask asks for a credential for the key that there is.
func (m *member) ask(ctx context.Context, conn *bus.Conn) error {
	m.mu.Lock()
	own := m.own
	m.mu.Unlock()
	public, err := own.PublicKey()
	if err != nil {
		return err
	}
	token, err := m.token()
	if err != nil {
		return err
	}
	request, err := proto.Marshal(&schemas.CredentialRequest{Node: m.node, PublicKey: public, Token: token})
	if err != nil {
		return err
	}
	data, err := conn.Request(ctx, schemas.CredentialSubject(m.node), request)
	if err != nil {
		return err
	}
	var reply schemas.CredentialReply
	if err := proto.Unmarshal(data, &reply); err != nil {
		return fmt.Errorf("the answer is no CredentialReply: %w", err)
	}
	if reply.GetRefused() != "" {
		return errors.New(reply.GetRefused())
	}
	if own, err = own.With(reply.GetJwt()); err != nil {
		return err
	}
	m.mu.Lock()
	m.own = own
	m.mu.Unlock()
	m.log.Info("this node has a credential", "expires", own.Expires)
	if m.path == "" {
		return nil
	}
	if err := own.Store(m.path); err != nil {
		m.log.Warn("the credential is not kept over a restart", "error", err)
	}
	return nil
}
