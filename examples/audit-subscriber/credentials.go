// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/deltaplane/deltaplane/schemas"
)

// login is how the bus is reached. Without credentials it is one that lets everybody in, such as a test's.
type login struct{ bus, credentials, ca string }

// readPrefix is what the JetStream API is called for users who only read.
const readPrefix = "DPJS"

// apiPrefix is what the JetStream API is called for this user.
func (l login) apiPrefix() string {
	if l.credentials == "" {
		return "$JS.API"
	}
	return readPrefix
}

// options are those of the connection. Answers come to an inbox named after the user: the bus lets it hear no other.
func (l login) options() ([]nats.Option, error) {
	var options []nats.Option
	if l.ca != "" {
		options = append(options, nats.RootCAs(l.ca))
	}
	if l.credentials == "" {
		return append(options, nats.CustomInboxPrefix(schemas.InboxPrefix(schemas.User("audit-subscriber")))), nil
	}
	text, err := os.ReadFile(l.credentials)
	if err != nil {
		return nil, fmt.Errorf("read the credentials: %w", err)
	}
	user, err := userOf(string(text))
	if err != nil {
		return nil, fmt.Errorf("read the credentials: %s: %w", l.credentials, err)
	}
	return append(options, nats.UserCredentials(l.credentials), nats.CustomInboxPrefix(schemas.InboxPrefix(user))), nil
}

// userOf reads a user's name from a file of credentials: the JWT in it has a middle part in JSON.
func userOf(text string) (string, error) {
	var claims struct {
		Name string `json:"name"`
	}
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimSpace(line), ".")
		if len(parts) != 3 {
			continue
		}
		data, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil {
			err = json.Unmarshal(data, &claims)
		}
		return claims.Name, err
	}
	return "", fmt.Errorf("there is no JWT in it")
}
