// SPDX-License-Identifier: Apache-2.0

// Package embedded runs a NATS server with JetStream inside the process: for the lab, the demo and tests. It is
// the same server as in a cluster, with the configuration that deploy/nats has for one.
//
// It promises that Shutdown leaves no goroutine, socket or temporary folder behind, and that a server started
// again on the same Dir has the same streams. Only this package imports nats-server.
package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/deltaplane/deltaplane/deploy/nats"
	"github.com/deltaplane/deltaplane/schemas"
)

// The limits of every server that deltaplane starts.
const (
	// MaxPayload is NATS's own default, in bytes; schemas.MaxMessageBytes and headers fit.
	MaxPayload = 1 << 20
	// MaxPending bounds what waits for one slow connection, in bytes; then the server closes it.
	MaxPending = 8 << 20
	// MaxStore is what streams may reserve together, in bytes.
	MaxStore = 8 << 30
	// ReadyTimeout bounds the start.
	ReadyTimeout = 20 * time.Second
	readyPoll    = 100 * time.Millisecond
)

// Options say where a server keeps its streams and listens. The zero value is a server on a free local port
// that forgets everything at Shutdown.
type Options struct {
	// Dir keeps the streams. Empty is a temporary folder, removed at Shutdown.
	Dir string
	// Host to listen on; empty is 127.0.0.1.
	Host string
	// Port to listen on; 0 and -1 are any free port.
	Port int
	// SyncAlways makes every acknowledged message survive a power cut, at the price of an fsync each. Else the
	// server syncs every 2 minutes, which survives the death of the process, not of the machine.
	SyncAlways bool
	// ConfigFile is a NATS configuration file to start from; Dir, Host and Port are set over it when given.
	ConfigFile string
	// Trust is a folder with what `deltaplane trust init` makes for the bus. The server then has the deployed
	// configuration, deploy/nats/single.conf: TLS, accounts and permissions. Empty lets everybody do everything.
	Trust string
	// Log gets the server's warnings and errors; nil drops them.
	Log *slog.Logger
}

// Server is a running NATS server.
type Server struct {
	nats      *server.Server
	started   Options
	file      string   // of the configuration, if there is one
	temporary []string // folders to remove
}

// Start starts a server and waits until clients can connect.
func Start(o Options) (*Server, error) {
	s := &Server{started: o, file: o.ConfigFile}
	if err := s.start(o); err != nil {
		s.Shutdown()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(o Options) error {
	opts, err := s.options(o)
	if err != nil {
		return err
	}
	if opts.StoreDir == "" {
		if opts.StoreDir, err = s.folder(); err != nil {
			return fmt.Errorf("make a folder for the bus's streams: %w", err)
		}
		s.started.Dir = opts.StoreDir
	}
	return s.run(opts, o.Log)
}

// folder makes one that is removed at Shutdown.
func (s *Server) folder() (string, error) {
	folder, err := os.MkdirTemp("", "deltaplane-bus-")
	if err == nil {
		s.temporary = append(s.temporary, folder)
	}
	return folder, err
}

func (s *Server) run(opts *server.Options, log *slog.Logger) error {
	var err error
	if s.nats, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("start the embedded NATS server: %w", err)
	}
	warnings := &logger{slog: log}
	s.nats.SetLoggerV2(warnings, false, false, false)
	s.nats.Start()
	if reason := s.waitReady(warnings); reason != "" {
		return fmt.Errorf("start the embedded NATS server on %s:%d with streams in %s: %s", opts.Host, opts.Port,
			opts.StoreDir, reason)
	}
	return nil
}

// waitReady returns why the server doesn't get ready, or nothing once it is.
func (s *Server) waitReady(warnings *logger) string {
	for end := time.Now().Add(ReadyTimeout); time.Now().Before(end); {
		if s.nats.ReadyForConnections(readyPoll) && s.nats.JetStreamEnabled() {
			return ""
		}
		if reason := warnings.fatal(); reason != "" {
			return reason
		}
	}
	return fmt.Sprintf("it wasn't ready after %v", ReadyTimeout)
}

func (s *Server) options(o Options) (*server.Options, error) {
	opts, err := s.base(o)
	if err != nil {
		return nil, err
	}
	if opts.MaxPayload != 0 && opts.MaxPayload < schemas.MaxMessageBytes {
		return nil, fmt.Errorf("read the NATS configuration %s: max_payload is %d bytes, but deltaplane sends up to %d: raise it",
			o.ConfigFile, opts.MaxPayload, schemas.MaxMessageBytes)
	}
	opts.JetStream, opts.NoSigs = true, true
	opts.SyncAlways = opts.SyncAlways || o.SyncAlways
	if o.Dir != "" {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("find the bus's folder %s", o.Dir), err)
		}
		opts.StoreDir = dir
	}
	if o.Host != "" {
		opts.Host = o.Host
	}
	if o.Port > 0 {
		opts.Port = o.Port
	}
	return opts, nil
}

// base is what a server starts from.
func (s *Server) base(o Options) (*server.Options, error) {
	if o.Trust != "" && s.file == "" {
		folder, err := s.configuration(o.Dir)
		if err != nil {
			return nil, fmt.Errorf("make a folder for the bus's configuration: %w", err)
		}
		if err := nats.Place(folder, o.Trust, ""); err != nil {
			return nil, err
		}
		s.file = filepath.Join(folder, nats.Single)
	}
	if s.file == "" {
		return &server.Options{
			Host: "127.0.0.1", Port: server.RANDOM_PORT, ServerName: "deltaplane-embedded",
			MaxPayload: MaxPayload, MaxPending: MaxPending, JetStreamMaxStore: MaxStore,
		}, nil
	}
	opts, err := server.ProcessConfigFile(s.file)
	if err != nil {
		return nil, fmt.Errorf("read the NATS configuration %s: %w", s.file, err)
	}
	if o.Trust != "" {
		// What can't be the same in this process: where it listens. It serves no statistics.
		opts.Host, opts.Port, opts.HTTPPort = "127.0.0.1", server.RANDOM_PORT, 0
	}
	return opts, nil
}

// configuration makes an empty folder: in the one that was given for streams, so that whoever removes that leaves nothing.
func (s *Server) configuration(dir string) (string, error) {
	if dir == "" {
		return s.folder()
	}
	folder, err := filepath.Abs(filepath.Join(dir, "configuration"))
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", err
	}
	return folder, os.MkdirAll(folder, 0o700)
}

// URL returns where clients connect: it begins with tls:// if they must.
func (s *Server) URL() string { return s.nats.ClientURL() }

// Reload has the server read its configuration again, and with it the accounts, as nats-server --signal reload does.
func (s *Server) Reload() error {
	opts, err := s.options(s.started)
	if err == nil {
		err = s.nats.ReloadOptions(opts)
	}
	if err != nil {
		return fmt.Errorf("read the bus's configuration again: %w", err)
	}
	return nil
}

// Shutdown stops the server, waits for it and removes what was temporary. Calling it twice does nothing more.
func (s *Server) Shutdown() {
	if s.nats != nil {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
	}
	for _, folder := range s.temporary {
		os.RemoveAll(folder)
	}
}
