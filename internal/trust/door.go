// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/deltaplane/deltaplane/schemas"
)

// SubjectDoor is where the servers ask who someone is that shows a token (nats-server, server/auth_callout.go).
const SubjectDoor = "$SYS.REQ.USER.AUTH"

// joinTime is how long a connection may last that was made by showing a token. Long before, the node has a credential.
const joinTime = time.Hour

// Door says to the bus's servers who someone is that shows a token: a node. Folder has what `deltaplane trust init` makes
// for the watchers.
type Door struct{ Folder string }

// Answer answers a server's request. who finds the user that a token proves; from is the address that shows it. The error
// is why nobody is let in; it is for people who operate the watchers and the servers: whoever shows the token hears nothing
// of it. There may be an answer besides, so that the server needn't wait.
func (d Door) Answer(request []byte, who func(from, token string) (user string, err error)) (answer []byte, refused error) {
	asked, err := jwt.DecodeAuthorizationRequestClaims(string(request))
	if err != nil {
		return nil, fmt.Errorf("read a server's question who someone is: %w", err)
	}
	answers, err := OpenIssuer(filepath.Join(d.Folder, FileAnswers))
	if err != nil {
		return nil, err
	}
	claims := jwt.NewAuthorizationResponseClaims(asked.UserNkey)
	claims.Audience, claims.IssuerAccount = asked.Server.ID, answers.account
	if claims.Jwt, refused = d.admit(asked, who); refused != nil {
		claims.Error = refused.Error()
	}
	text, err := encode(claims, answers.of(asked.UserNkey))
	return []byte(text), errors.Join(refused, err)
}

func (d Door) admit(asked *jwt.AuthorizationRequestClaims, who func(from, token string) (string, error)) (string, error) {
	if asked.ConnectOptions.Token == "" {
		return "", errors.New("it shows no token")
	}
	user, err := who(asked.ClientInformation.Host, asked.ConnectOptions.Token)
	if err != nil {
		return "", err
	}
	return d.issue(user, asked.UserNkey, joinTime)
}

// Issue makes a node's JWT for a public key of the node's own, and says when it ends.
func (d Door) Issue(user, publicKey string) (token string, expires time.Time, err error) {
	token, err = d.issue(user, publicKey, NodeCredentialTime)
	return token, time.Now().Add(NodeCredentialTime), err
}

func (d Door) issue(user, publicKey string, good time.Duration) (string, error) {
	revoked, err := readRevoked(d.Folder)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(revoked, func(node string) bool { return schemas.User(node) == user }) {
		return "", fmt.Errorf("node %s is put out: deltaplane trust allow lets it in again", user)
	}
	nodes, err := OpenIssuer(filepath.Join(d.Folder, FileNodes))
	if err != nil {
		return "", err
	}
	return nodes.Issue(user, publicKey, good)
}
