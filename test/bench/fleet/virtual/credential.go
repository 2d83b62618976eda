// SPDX-License-Identifier: Apache-2.0

package virtual

import (
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// join gives the node a credential, once, as a watcher gives it to one that has shown its token.
func (n *node) join() error {
	if n.who != nil || n.fleet.options.Issuer == "" {
		return nil
	}
	issuer, err := trust.OpenIssuer(n.fleet.options.Issuer)
	if err != nil {
		return err
	}
	credential, err := trust.NewCredential()
	if err != nil {
		return err
	}
	key, err := credential.PublicKey()
	if err != nil {
		return err
	}
	token, err := issuer.Issue(schemas.User(n.name), key, trust.NodeCredentialTime)
	if err != nil {
		return err
	}
	n.who = func() (bus.Identity, error) { return bus.Identity{JWT: token, Sign: credential.Sign}, nil }
	return nil
}
