// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/deltaplane/deltaplane/schemas"
)

// What deploy/nats says must be what a server understands, and room enough for all streams.
func TestServersUnderstandTheDeployedConfiguration(t *testing.T) {
	t.Setenv("NODE_NAME", "node-a")
	var need int64
	for _, stream := range schemas.Streams {
		need += stream.MaxBytes
	}
	for _, file := range []string{"cluster.conf", "single.conf"} {
		options, err := server.ProcessConfigFile("../../../deploy/nats/" + file)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if !options.JetStream || options.JetStreamMaxStore < need {
			t.Errorf("%s: JetStream %v, %d bytes; the streams may reserve %d", file, options.JetStream, options.JetStreamMaxStore, need)
		}
		if options.MaxPayload < schemas.MaxMessageBytes {
			t.Errorf("%s: max_payload is %d bytes, messages may have %d", file, options.MaxPayload, schemas.MaxMessageBytes)
		}
	}
}

func TestServerRunsWithTheDeployedConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/nats/single.conf")
	if err != nil {
		t.Fatal(err)
	}
	// Other servers may run on this machine, on the ports that the file names.
	text = bytes.Replace(text, []byte("http: 8222"), []byte("http: 127.0.0.1:-1"), 1)
	text = bytes.Replace(text, []byte("port: 4222"), []byte("port: -1"), 1)
	anyPort := filepath.Join(t.TempDir(), "single.conf")
	if err := os.WriteFile(anyPort, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Start(Options{ConfigFile: anyPort, Dir: t.TempDir(), Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
}
