// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"strings"

	"github.com/nats-io/nats.go"
)

// noCertificates is what nats.go says of a file without any; it has no value for it.
const noCertificates = "failed to parse root certificate"

// advice is what to do about a connection that can't be made.
func (o *Options) advice(err error) string {
	var hostname x509.HostnameError
	var certificate *tls.CertificateVerificationError
	var file *fs.PathError
	switch {
	case errors.As(err, &file), errors.Is(err, errCredentials), strings.Contains(err.Error(), noCertificates):
		return "is the file the right one, and whole?"
	case errors.As(err, &hostname):
		return "make the server's certificate anew with: deltaplane trust init FOLDER --host NAME-OR-ADDRESS"
	case errors.As(err, &certificate) && o.RootCAFile == "":
		return "give --bus-ca, ca.crt of the folder of deltaplane trust init"
	case errors.As(err, &certificate):
		return "is " + o.RootCAFile + " of the same folder of deltaplane trust init as the server's certificate?"
	case refusesUser(err) && o.CredentialsFile == "" && o.Identity == nil:
		return "the server wants to know who you are: give --bus-credentials"
	case refusesUser(err):
		return "are the credentials of the same folder of deltaplane trust init as the server's accounts, and neither expired nor revoked?"
	}
	return "is a NATS server running there?"
}

// refusesUser says that a server was reached that doesn't take who connects.
func refusesUser(err error) bool {
	for _, refusal := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrNkeysNotSupported,
	} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}
