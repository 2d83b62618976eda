// SPDX-License-Identifier: Apache-2.0

// Package nats holds the configuration of the bus's servers as it is deployed, so that labs, demos and tests run the
// same one.
package nats

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The files of the configuration. Both include common.conf.
const (
	Cluster = "cluster.conf" // a server of several
	Single  = "single.conf"  // one alone
)

// What the configuration names: its own folder, below which what `deltaplane trust init` makes for the bus is in trust,
// and the one for streams.
const (
	folder  = "/etc/nats/"
	streams = "/data"
)

//go:embed *.conf
var files embed.FS

// Place writes the configuration into a folder, for a server that reads it there, has its keys and accounts in another,
// and keeps its streams in a third. changes are old and new texts, as people who deploy would change them.
func Place(in, trust, data string, changes ...string) error {
	trust, err := filepath.Abs(trust)
	if err != nil {
		return fmt.Errorf("place the bus's configuration: %w", err)
	}
	change := strings.NewReplacer(append([]string{folder, in + "/", `"` + streams + `"`, `"` + data + `"`}, changes...)...)
	entries, err := files.ReadDir(".")
	if err != nil {
		return fmt.Errorf("place the bus's configuration: %w", err)
	}
	for _, entry := range entries {
		text, err := files.ReadFile(entry.Name())
		if err != nil {
			return fmt.Errorf("place the bus's configuration: %w", err)
		}
		if err := os.WriteFile(filepath.Join(in, entry.Name()), []byte(change.Replace(string(text))), 0o600); err != nil {
			return fmt.Errorf("place the bus's configuration: %w", err)
		}
	}
	if err := os.Symlink(trust, filepath.Join(in, "trust")); err != nil {
		return fmt.Errorf("place the bus's configuration: %w", err)
	}
	return nil
}
