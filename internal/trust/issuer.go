// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Issuer makes JWTs of users of one role. It can give nobody more than the role.
type Issuer struct {
	account string
	key     nkeys.KeyPair
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
