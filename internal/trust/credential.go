// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Credential is a user's key, and the JWT that was given for it, if one was. Its zero value has neither.
type Credential struct {
	JWT     string
	Expires time.Time // zero is never
	key     nkeys.KeyPair
}

// NewCredential makes a key.
func NewCredential() (Credential, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return Credential{}, fmt.Errorf("make a key: %w", err)
	}
	return Credential{key: key}, nil
}

// ReadCredential reads a file of credentials.
func ReadCredential(path string) (Credential, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Credential{}, fmt.Errorf("read credentials: %w", err)
	}
	token, err := nkeys.ParseDecoratedJWT(text)
	if err != nil {
		return Credential{}, fmt.Errorf("read credentials: %s has no JWT: %w", path, err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		return Credential{}, fmt.Errorf("read credentials: %s has no user's key: %w", path, err)
	}
	return Credential{key: key}.With(token)
}

// StoredCredential is ReadCredential of a file that a process keeps for itself: without one, or with one that is of no use
// any more, it makes a key.
func StoredCredential(path string, now time.Time) (Credential, error) {
	c, err := ReadCredential(path)
	if err == nil && c.Good(now) {
		return c, nil
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return NewCredential()
	}
	fresh, failed := NewCredential()
	return fresh, errors.Join(err, failed)
}

// With returns the credential with a JWT that was given for its key.
func (c Credential) With(token string) (Credential, error) {
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return c, fmt.Errorf("read a credential: %w", err)
	}
	if public, err := c.PublicKey(); err != nil || public != claims.Subject {
		return c, errors.Join(fmt.Errorf("read a credential: it is for the key %s, not for this one", claims.Subject), err)
	}
	c.JWT, c.Expires = token, time.Time{}
	if claims.Expires != 0 {
		c.Expires = time.Unix(claims.Expires, 0)
	}
	return c, nil
}

// Store writes the credential into a file that only its owner may read.
func (c Credential) Store(path string) error {
	seed, err := c.key.Seed()
	if err != nil {
		return fmt.Errorf("store a credential: %w", err)
	}
	text, err := jwt.FormatUserConfig(c.JWT, seed)
	if err != nil {
		return fmt.Errorf("store a credential: %w", err)
	}
	return write(filepath.Clean(path), text)
}

// Good says whether the servers will take it.
func (c Credential) Good(now time.Time) bool {
	return c.JWT != "" && (c.Expires.IsZero() || now.Before(c.Expires))
}

// Renew returns when to ask for another: half-way to its end.
func (c Credential) Renew(now time.Time) time.Duration {
	if !c.Good(now) {
		return 0
	}
	return max(0, c.Expires.Sub(now)-NodeCredentialTime/2)
}

// PublicKey names the key.
func (c Credential) PublicKey() (string, error) { return c.key.PublicKey() }

// Sign signs a server's challenge.
func (c Credential) Sign(challenge []byte) ([]byte, error) { return c.key.Sign(challenge) }
