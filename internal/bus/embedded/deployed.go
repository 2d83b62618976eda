// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"

	deployed "github.com/deltaplane/deltaplane/deploy/nats"
)

// place writes the deployed configuration into folder, as if that were /etc/nats, with what trust has made for the bus
// below it, and returns the path of the configuration of a single server.
func place(folder, trust string) (string, error) {
	files, err := deployed.Files.ReadDir(".")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := deployed.Files.ReadFile(file.Name())
		if err != nil {
			return "", err
		}
		text = bytes.ReplaceAll(text, []byte(deployed.Folder+"/"), []byte(folder+"/"))
		if err := os.WriteFile(filepath.Join(folder, file.Name()), text, 0o600); err != nil {
			return "", fmt.Errorf("place the bus's configuration: %w", err)
		}
	}
	trust, err = filepath.Abs(trust)
	if err != nil {
		return "", fmt.Errorf("place the bus's configuration: %w", err)
	}
	if err := os.Symlink(trust, filepath.Join(folder, "trust")); err != nil {
		return "", fmt.Errorf("place the bus's configuration: %w", err)
	}
	return filepath.Join(folder, "single.conf"), nil
}

// moved changes what can't be the same for a server in this process: it listens where it is told, not on all addresses,
// serves no statistics, and keeps its streams elsewhere.
func moved(opts *server.Options) {
	opts.Host, opts.Port = "127.0.0.1", server.RANDOM_PORT
	opts.HTTPHost, opts.HTTPPort = "", 0
	opts.StoreDir = ""
}
