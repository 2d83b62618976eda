// SPDX-License-Identifier: Apache-2.0

package bus_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// The example is built and run as its users would, beside a live bus: what it prints is what an outsider can know.
func TestAuditSubscriberTellsWhatHappened(t *testing.T) {
	binary := buildExample(t)
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := embedded.Start(embedded.Options{Trust: folder.BusPath()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	conn, node := connectAs(t, server, folder.Path(trust.RoleCompiler)), connectAs(t, server, nodeOf(t, folder))
	for name, file := range map[string]string{"DELTAPLANE_BUS_CREDENTIALS": trust.FileCredentials, "DELTAPLANE_BUS_CA": trust.FileCA} {
		t.Setenv(name, filepath.Join(folder.Path(trust.RoleReader), file))
	}
	if err := conn.EnsureStreams(t.Context(), 1, schemas.Streams...); err != nil {
		t.Fatal(err)
	}
	fence, err := conn.TakeEpoch(t.Context(), schemas.Deltas.Name, schemas.SubjectEpoch, "compiler-0")
	if err != nil {
		t.Fatal(err)
	}
	committed := time.Now().UTC()
	commitRemoval(t, fence, 41, committed)
	reportApplied(t, node, 41, committed.Add(7*time.Millisecond))

	asText := listen(t, binary, "--bus", server.URL(), "--since", "all")
	for _, want := range []string{
		"epoch 1, led by compiler-0",
		"revision 41",
		"    because EndpointSlice shop/cart-x7k2p was changed by kube-controller-manager",
		"    cluster: 2 rows, ",
		"      - in set 7: backends 3",
		"      - backends 3",
		"    node-a applied cluster revision 41 after 7.0 ms: 4 writes",
	} {
		if got := asText(); !strings.Contains(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}

	asJSON := listen(t, binary, "--bus", server.URL(), "--since", "42", "--output", "json")
	commitRemoval(t, fence, 42, committed)
	var delta struct {
		Type, Layer    string
		Epoch, From    uint64
		Revision       uint64
		Rows           []string
		Causes         []struct{ Object, UID, ResourceVersion string }
		Time           time.Time
		Text, Severity string
	}
	for delta.Type != "delta" {
		decodeLine(t, asJSON(), &delta)
	}
	if delta.Revision != 42 || delta.From != 41 || delta.Layer != "cluster" || len(delta.Rows) != 2 || delta.Time.IsZero() {
		t.Errorf("got %+v", delta)
	}
	want := struct{ Object, UID, ResourceVersion string }{"EndpointSlice shop/cart-x7k2p", "0c9d4f0a", "4711"}
	if diff := cmp.Diff(want, delta.Causes[0]); diff != "" {
		t.Error(diff)
	}
	publish(t, connectAs(t, server, folder.Path(trust.RoleWatcher)), schemas.EventSubject("watcher", ""), &schemas.Event{
		Severity: schemas.Severity_SEVERITY_WARNING, Service: "watcher", Kind: "object_set_aside", Text: "port 70000: want 1 to 65535",
	})
	for delta.Type != "event" {
		decodeLine(t, asJSON(), &delta)
	}
	if delta.Severity != "warning" || delta.Text != "port 70000: want 1 to 65535" {
		t.Errorf("got %+v", delta)
	}
	for _, next := range []func() string{asText, asText, asText} {
		next() // the text subscriber goes on too: revision 42 and what belongs to it
	}
}

func TestAuditSubscriberNamesMistakes(t *testing.T) {
	binary := buildExample(t)
	for _, test := range []struct{ arg, want string }{
		{"--since=yesterday", `audit-subscriber: --since "yesterday": want a duration such as 10m, a revision such as 812344, or all`},
		{"--output=xml", `audit-subscriber: --output "xml": want text or json`},
		{"now", `audit-subscriber: "now" is no flag; see --help`},
	} {
		out, err := exec.CommandContext(t.Context(), binary, test.arg).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v, %s", test.arg, err, out)
		}
	}
}

// Who isn't let in is told why, and what to do, and doesn't wait for the bus to change its mind.
func TestAuditSubscriberSaysWhyItIsRefused(t *testing.T) {
	binary := buildExample(t)
	keys, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := embedded.Start(embedded.Options{Trust: keys.BusPath()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	other, err := trust.Init(filepath.Join(t.TempDir(), "other"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	file := func(f *trust.Folder, name string) string { return filepath.Join(f.Path(trust.RoleReader), name) }
	for _, test := range []struct{ credentials, ca, want string }{
		{"", file(keys, trust.FileCA), "give --bus-credentials, " + trust.FileCredentials + " of reader/"},
		{file(other, trust.FileCredentials), file(keys, trust.FileCA), "are the credentials of the same folder"},
		{file(keys, trust.FileCredentials), "", "give --bus-ca, " + trust.FileCA + " of reader/"},
		{filepath.Join(keys.Path(trust.RoleOperator), trust.FileCredentials), file(keys, trust.FileCA), "the credentials must be a reader's"},
		{file(keys, trust.FileCredentials), file(other, trust.FileCA), "of the same folder of deltaplane trust init as the server's certificate?"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, binary, "--bus", server.URL(), "--bus-credentials", test.credentials, "--bus-ca", test.ca).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("credentials %q, CA %q: %v, %s\nwant %q", test.credentials, test.ca, err, out, test.want)
		}
	}
}

func connectAs(t *testing.T, server *embedded.Server, folder string) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(t.Context(), bus.Options{
		URL: server.URL(), CredentialsFile: filepath.Join(folder, trust.FileCredentials), RootCAFile: filepath.Join(folder, trust.FileCA),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func nodeOf(t *testing.T, folder *trust.Folder) string {
	t.Helper()
	if err := folder.Node("node-a"); err != nil {
		t.Fatal(err)
	}
	return folder.NodePath("node-a")
}

func buildExample(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "audit-subscriber")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir = filepath.Join("..", "..", "examples", "audit-subscriber")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	return binary
}

// listen runs the example until the test ends and returns what gives its next line.
func listen(t *testing.T, binary string, args ...string) func() string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, binary, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() }) // it was killed
	lines := bufio.NewReader(out)
	return func() string {
		line, err := lines.ReadString('\n')
		if err != nil && err != io.EOF || line == "" {
			t.Fatalf("audit-subscriber ended: %v", err)
		}
		return line
	}
}

func decodeLine(t *testing.T, line string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), into); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
}

// commitRemoval appends the delta that removes one backend, as the compiler would.
func commitRemoval(t *testing.T, fence *bus.Fence, revision model.Revision, committed time.Time) {
	t.Helper()
	messages, err := wire.EncodeDelta(model.Delta{
		Epoch: model.Epoch(fence.Epoch()), Layer: model.ClusterLayer, From: revision - 1, To: revision, Committed: committed,
		Change: model.Change{Remove: model.Keys{Members: []model.Member{{Set: 7, Backend: 3}}, Backends: []model.BackendID{3}}},
		Causes: []model.Cause{{
			Kind: "EndpointSlice", Namespace: "shop", Name: "cart-x7k2p", UID: "0c9d4f0a", ResourceVersion: "4711",
			Manager: "kube-controller-manager", Trigger: committed,
		}},
	}, schemas.MaxMessageBytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fence.Append(t.Context(), []bus.Record{{Subject: schemas.DeltaSubject("cluster"), Data: messages[0]}})
	if err != nil {
		t.Fatal(err)
	}
}

func reportApplied(t *testing.T, conn *bus.Conn, revision uint64, at time.Time) {
	t.Helper()
	publish(t, conn, schemas.AppliedSubject("node-a"), &schemas.Applied{
		Node: "node-a", Deltas: []*schemas.AppliedDelta{{Layer: "cluster", Epoch: 1, Revision: revision, Applied: timestamppb.New(at), Writes: 4}},
	})
}

func publish(t *testing.T, conn *bus.Conn, subject string, m proto.Message) {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish(subject, data); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}
