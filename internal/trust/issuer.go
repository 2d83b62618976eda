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
	key     nkeys.KeyPair
}

// OpenIssuer reads an account's public key and a private key that may sign for it, one a line. Whoever keeps one reads it
// anew each time, so that a key that was replaced is used at once.
func OpenIssuer(path string) (*Issuer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a key that signs credentials: %w", err)
	}
	account, seed, ok := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if !ok || !nkeys.IsValidPublicAccountKey(account) {
		return nil, fmt.Errorf("read a key that signs credentials: %s has no account's key in its first line: make it with deltaplane trust init", path)
	}
	key, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, fmt.Errorf("read a key that signs credentials from %s: %w", path, err)
	}
	return &Issuer{account, key}, nil
}

// file is what OpenIssuer reads.
func (i *Issuer) file() ([]byte, error) {
	seed, err := i.key.Seed()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\n%s\n", i.account, seed), nil
}

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
	return encode(claims, i.key)
}
