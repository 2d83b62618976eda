// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// ring is the folder of private nkeys, each in a file of its own. A key that isn't there yet is made when it is asked for.
type ring struct{ folder string }

// The names of keys.
const (
	operatorKey = "operator"
	answerKey   = "answers" // signs what the door says to the servers
)

func accountKey(account string) string { return "account-" + account }
func roleKey(role string) string       { return "role-" + role }

// userPrefix starts the names of users' keys.
const userPrefix = "user-"

// userKey is a user's own: that of a role, else of a node or of a person, who may be called alike.
func userKey(role, user string) string {
	switch role {
	case RoleNode:
		return userPrefix + "node." + user
	case user:
		return userPrefix + role
	}
	return userPrefix + "person." + user
}

// pair returns a key, and makes it if need be. What kind it is shows in its name.
func (r *ring) pair(name string) (nkeys.KeyPair, error) {
	path := r.path(name)
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r.make(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read a private key: %w", err)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("read a private key from %s: %w", path, err)
	}
	return pair, nil
}

func (r *ring) make(name string) (nkeys.KeyPair, error) {
	kind := nkeys.PrefixByteAccount
	switch {
	case name == operatorKey:
		kind = nkeys.PrefixByteOperator
	case strings.HasPrefix(name, userPrefix):
		kind = nkeys.PrefixByteUser
	}
	pair, err := nkeys.CreatePair(kind)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	return pair, write(r.path(name), seed)
}

func (r *ring) path(name string) string { return filepath.Join(r.folder, name+".nk") }

// public returns the public half of a key.
func (r *ring) public(name string) (string, error) {
	pair, err := r.pair(name)
	if err != nil {
		return "", err
	}
	return pair.PublicKey()
}

// operatorToken returns what the operator says of itself. It is signed once and kept: servers that run refuse to read their
// accounts again when as much as its date is another.
func (r *ring) operatorToken(operator nkeys.KeyPair, system string) (string, error) {
	id, err := operator.PublicKey()
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.folder, operatorKey+".jwt")
	kept, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read what the operator says of itself: %w", err)
	}
	if said, err := jwt.DecodeOperatorClaims(string(kept)); err == nil && said.Subject == id && said.SystemAccount == system {
		return string(kept), nil
	}
	claims := jwt.NewOperatorClaims(id)
	claims.Name, claims.SystemAccount = "deltaplane", system
	token, err := encode(claims, operator)
	if err != nil {
		return "", err
	}
	return token, write(path, []byte(token))
}

// write writes a secret, as a whole or not at all.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
