// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyLeaks(m) }

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func addressOf(s *Server) string { return strings.TrimPrefix(s.URL(), "nats://") }

func TestServerTakesConnectionsAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	s := start(t, Options{})
	conn, err := net.Dial("tcp", addressOf(s))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d folders while it runs, want one with the streams", len(left))
	}
	s.Shutdown()
	s.Shutdown() // does nothing more
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := net.Dial("tcp", addressOf(s)); err == nil {
		t.Error("still listening after Shutdown")
	}
}

func TestFolderThatWasGivenIsKept(t *testing.T) {
	dir := t.TempDir()
	start(t, Options{Dir: dir}).Shutdown()
	if left, _ := os.ReadDir(dir); len(left) == 0 {
		t.Error("the streams are gone")
	}
}

func TestPortThatIsTakenIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	var log bytes.Buffer
	_, err = Start(Options{Port: port, Log: slog.New(slog.NewTextHandler(&log, nil))})
	want := fmt.Sprintf("start the embedded NATS server on 127.0.0.1:%d", port)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want it to say %q and why", err, want)
	}
	if !strings.Contains(log.String(), "address already in use") {
		t.Errorf("the log doesn't say why: %s", log.String())
	}
}

func TestConfigurationFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	for _, test := range []struct{ text, want string }{
		{"port: -1\nhost: 127.0.0.1\nserver_name: from-file\n", ""},
		{"max_payload: 1KB\n", "max_payload is 1024 bytes, but deltaplane sends up to"},
		{"port: [\n", "read the NATS configuration " + file},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Start(Options{ConfigFile: file, Dir: t.TempDir()})
		if test.want == "" {
			if err != nil {
				t.Errorf("%q: %v", test.text, err)
				continue
			}
			if name := s.nats.Name(); name != "from-file" {
				t.Errorf("the server is called %q", name)
			}
			s.Shutdown()
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.text, err, test.want)
		}
	}
	if _, err := Start(Options{ConfigFile: "/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("no such file: %v", err)
	}
}

func TestFolderThatCannotBeUsedIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(Options{Dir: file})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want it to name %s", err, file)
	}
}
