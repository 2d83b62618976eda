// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"
)

// connect connects to the bus, and stays connected until ctx ends. It waits for a bus that is away; one that doesn't let us in
// is an error with what to do, since nothing changes that but somebody's hand. If it doesn't let us read that is told refuse.
func (l login) connect(ctx context.Context, refuse func(error), stderr io.Writer) (*nats.Conn, error) {
	options, err := l.options()
	if err != nil {
		return nil, err
	}
	said := ""
	options = append(options, nats.Name("audit-subscriber"), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if ctx.Err() == nil { // else it was closed here
				fmt.Fprintf(stderr, "lost the bus, reconnecting: %v\n", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if text := l.explain(err).Error(); l.advice(err) != "" && text != said {
				said = text
				fmt.Fprintf(stderr, "%s; trying again\n", text)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) { fmt.Fprintf(stderr, "reconnected to %s\n", c.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				refuse(l.explain(err))
				return
			}
			fmt.Fprintln(stderr, l.explain(err))
		}),
	)
	conn, err := nats.Connect(l.bus, options...)
	switch {
	case err == nil:
		return conn, nil
	case l.advice(err) != "":
		return nil, l.explain(err)
	}
	fmt.Fprintf(stderr, "the bus at %s is away (%v); trying again until it is there\n", l.bus, err)
	if conn, err = nats.Connect(l.bus, append(options, nats.RetryOnFailedConnect(true))...); err != nil {
		return nil, l.explain(err)
	}
	return conn, nil
}

// explain says of an error of the bus what to do about it, if that is known.
func (l login) explain(err error) error {
	if advice := l.advice(err); advice != "" {
		return fmt.Errorf("the bus at %s: %w: %s", l.bus, err, advice)
	}
	return fmt.Errorf("the bus at %s: %w", l.bus, err)
}

// advice is what to do about an error that stays until somebody does it; empty for any other.
func (l login) advice(err error) string {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		return "the credentials must be a reader's: deltaplane trust user FOLDER NAME --role reader"
	case errors.As(err, &certificate) && l.ca == "":
		return "give --bus-ca, ca.crt of reader/ in the folder of deltaplane trust init"
	case errors.As(err, &certificate):
		return "is " + l.ca + " of the same folder of deltaplane trust init as the server's certificate?"
	case !errors.Is(err, nats.ErrAuthorization) && !errors.Is(err, nats.ErrAuthExpired) && !errors.Is(err, nats.ErrAuthRevoked):
		return ""
	case l.credentials == "":
		return "the server wants to know who you are: give --bus-credentials, bus.creds of reader/ in the folder of deltaplane trust init"
	}
	return "are the credentials of the same folder of deltaplane trust init as the server's accounts, and neither expired nor revoked?"
}
