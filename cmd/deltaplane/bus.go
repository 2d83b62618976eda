// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lab"
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
