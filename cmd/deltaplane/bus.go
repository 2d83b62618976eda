// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/wire"
)

// connectWithin is how long a command looks for the bus before it says that it isn't there.
const connectWithin = 3 * time.Second

// busFlags say where the bus is.
type busFlags struct {
	url         string
	credentials string
	rootCA      string
}

func (f *busFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.url, "bus", "", "URL of the bus; default $DELTAPLANE_BUS, else that of a lab that runs here")
	flags.StringVar(&f.credentials, "bus-credentials", os.Getenv("DELTAPLANE_BUS_CREDENTIALS"), "file with the bus user's JWT and key, as nsc writes it")
	flags.StringVar(&f.rootCA, "bus-ca", os.Getenv("DELTAPLANE_BUS_CA"), "file with the certificates that the bus server's is checked against")
}

// connect finds the bus, and gives up after connectWithin.
func (f *busFlags) connect(ctx context.Context) (*bus.Conn, error) {
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	return bus.Connect(ctx, options)
}

// options are what was given; else those of a lab that runs here.
func (f *busFlags) options() (bus.Options, error) {
	o := bus.Options{URL: cmp.Or(f.url, os.Getenv("DELTAPLANE_BUS")), Name: "deltaplane CLI", CredentialsFile: f.credentials, RootCAFile: f.rootCA}
	state := labWithBus(o.URL, lab.Running())
	if o.URL == "" {
		var err error
		if state, err = labBus(); err != nil {
			return o, err
		}
		o.URL = state.Bus
	}
	o.CredentialsFile, o.RootCAFile = cmp.Or(o.CredentialsFile, state.Credentials), cmp.Or(o.RootCAFile, state.CA)
	return o, nil
}

// ask sends a request and decodes its one answer.
func ask(ctx context.Context, conn *bus.Conn, subject, who string, request, answer proto.Message) error {
	data, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	reply, err := conn.Request(ctx, subject, data)
	switch {
	case errors.Is(err, bus.ErrNobody):
		return fmt.Errorf("no %s answers on the bus: is one running, and does it lead?", who)
	case errors.Is(err, bus.ErrDenied):
		return fmt.Errorf("ask the %s: %w", who, bus.ErrDenied)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the %s doesn't answer in time: it may be stopped, or too busy", who)
	case err != nil:
		return fmt.Errorf("ask the %s: %w", who, err)
	}
	return wire.Unmarshal(reply, answer)
}
