// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/deltaplane/deltaplane/schemas"
)

// Identity is who connects: a user's JWT, and what signs the server's challenge with the user's key.
type Identity struct {
	JWT  string
	Sign func(challenge []byte) ([]byte, error)
	// Token is shown besides, for servers that ask others who this is; empty shows none.
	Token string
}

var errCredentials = errors.New("read the credentials for the bus")

// identity returns the options by which a connection says who it is, and the user's name, which starts its inboxes.
func (c *Conn) identity() (user string, options []nats.Option, err error) {
	user = cmp.Or(c.options.User, schemas.User(c.options.Name))
	who := c.options.Identity
	if who == nil && c.options.CredentialsFile == "" {
		return user, nil, nil
	}
	if who == nil {
		who = func() (Identity, error) { return readCredentials(c.options.CredentialsFile) }
	}
	if c.options.User == "" {
		first, err := who()
		if err != nil {
			return "", nil, err
		}
		if user, err = userOf(first.JWT); err != nil {
			return "", nil, err
		}
	}
	return user, present(who), nil
}

// present asks who this is once for each attempt to connect: the parts of two identities don't fit together. nats.go
// asks for the JWT first, then for the signature and the token.
func present(who func() (Identity, error)) []nats.Option {
	var mu sync.Mutex
	var now Identity
	get := func() Identity {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	return []nats.Option{
		nats.UserJWT(
			func() (string, error) {
				identity, err := who()
				if err != nil {
					return "", err
				}
				mu.Lock()
				defer mu.Unlock()
				now = identity
				return now.JWT, nil
			},
			func(challenge []byte) ([]byte, error) { return get().Sign(challenge) },
		),
		nats.TokenHandler(func() string { return get().Token }),
	}
}

// readCredentials reads a file with a user's JWT and key.
func readCredentials(path string) (Identity, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", errCredentials, err)
	}
	token, err := nkeys.ParseDecoratedJWT(text)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s has no JWT: %w", errCredentials, path, err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s has no user's key: %w", errCredentials, path, err)
	}
	return Identity{JWT: token, Sign: key.Sign}, nil
}

// userOf reads a user's name from its JWT. Whether the JWT is good is for the server to say.
func userOf(token string) (string, error) {
	var claims struct {
		Name string `json:"name"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%w: a JWT has three parts, this has %d", errCredentials, len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(text, &claims)
	}
	if err != nil {
		return "", fmt.Errorf("%w: the JWT can't be read: %w", errCredentials, err)
	}
	return claims.Name, nil
}
