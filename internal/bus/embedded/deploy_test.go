// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/deltaplane/deltaplane/deploy/nats"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// What deploy/nats says must be what a server understands, and room enough for all streams.
func TestServersUnderstandTheDeployedConfiguration(t *testing.T) {
	t.Setenv("NODE_NAME", "node-a")
	var need int64
	for _, stream := range schemas.Streams {
		need += stream.MaxBytes
	}
	folder, trusted := t.TempDir(), trusted(t)
	if err := nats.Place(folder, trusted.BusPath(), "/data"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{nats.Cluster, nats.Single} {
		options, err := server.ProcessConfigFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if !options.JetStream || options.JetStreamMaxStore < need || options.StoreDir != "/data" {
			t.Errorf("%s: JetStream %v, %d bytes in %s; the streams may reserve %d", file, options.JetStream, options.JetStreamMaxStore, options.StoreDir, need)
		}
		if options.MaxPayload < schemas.MaxMessageBytes {
			t.Errorf("%s: max_payload is %d bytes, messages may have %d", file, options.MaxPayload, schemas.MaxMessageBytes)
		}
		if options.TLSConfig == nil || len(options.TrustedOperators) != 1 {
			t.Errorf("%s: whoever likes may connect", file)
		}
		if file == nats.Cluster && (options.Cluster.TLSConfig == nil || options.Cluster.TLSConfig.ClientAuth != tls.RequireAndVerifyClientCert) {
			t.Errorf("%s: whoever likes may be a server of the cluster", file)
		}
	}
}

func TestServerRunsWithTheDeployedConfiguration(t *testing.T) {
	temporary := t.TempDir()
	trusted := trusted(t)
	t.Setenv("TMPDIR", temporary)
	s := start(t, Options{Trust: trusted.BusPath()})
	if !strings.HasPrefix(s.URL(), "tls://127.0.0.1:") {
		t.Errorf("it listens at %s", s.URL())
	}
	s.Shutdown()
	if left, _ := os.ReadDir(temporary); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestServerWithAFolderKeepsItsConfigurationThere(t *testing.T) {
	temporary, dir, trusted := t.TempDir(), t.TempDir(), trusted(t)
	t.Setenv("TMPDIR", temporary)
	for range 2 { // also when it starts again
		s := start(t, Options{Trust: trusted.BusPath(), Dir: dir})
		if made, _ := os.ReadDir(temporary); len(made) != 0 {
			t.Errorf("outside of its folder: %v", made)
		}
		s.Shutdown()
	}
}

func TestServerWithoutWhatTrustMakesSaysSo(t *testing.T) {
	_, err := Start(Options{Trust: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "accounts.conf") {
		t.Errorf("got %v, want it to name the file that is missing", err)
	}
}

func trusted(t *testing.T) *trust.Folder {
	t.Helper()
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return folder
}
