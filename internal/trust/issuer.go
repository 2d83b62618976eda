// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Issuer signs for an account: JWTs of users of one role. It can give nobody more than the role.
type Issuer struct {
	account string
	keys    []nkeys.KeyPair // of the parts of the users
}

// OpenIssuer reads an account's public key and the private keys that may sign for it, one a line. Whoever keeps one reads it
// anew each time, so that a key that was replaced is used at once.
func OpenIssuer(path string) (*Issuer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a key that signs credentials: %w", err)
	}
	lines := strings.Fields(string(text))
	if len(lines) < 2 || !nkeys.IsValidPublicAccountKey(lines[0]) {
		return nil, fmt.Errorf("read a key that signs credentials: %s has no account's key in its first line: make it with deltaplane trust init", path)
	}
	i := &Issuer{account: lines[0]}
	for _, seed := range lines[1:] {
		key, err := nkeys.FromSeed([]byte(seed))
		if err != nil {
			return nil, fmt.Errorf("read a key that signs credentials from %s: %w", path, err)
		}
		i.keys = append(i.keys, key)
	}
	return i, nil
}

// file is what OpenIssuer reads.
func (i *Issuer) file() ([]byte, error) {
	text := fmt.Appendln(nil, i.account)
	for _, key := range i.keys {
		seed, err := key.Seed()
		if err != nil {
			return nil, err
		}
		text = fmt.Appendf(text, "%s\n", seed)
	}
	return text, nil
}

// of returns the key that signs for a user.
func (i *Issuer) of(user string) nkeys.KeyPair { return i.keys[partOf(user, len(i.keys))] }

// Issue returns the JWT of a user with a public user key. It is good for some time; 0 is for ever.
func (i *Issuer) Issue(user, publicKey string, good time.Duration) (string, error) {
	claims := jwt.NewUserClaims(publicKey)
	if claims == nil || !nkeys.IsValidPublicUserKey(publicKey) {
		return "", fmt.Errorf("make a credential for %s: %q is no public user key", user, publicKey)
	}
	claims.Name, claims.IssuerAccount = user, i.account
	claims.SetScoped(true)
	if good > 0 {
		claims.Expires = time.Now().Add(good).Unix()
	}
	return encode(claims, i.of(user))
}
