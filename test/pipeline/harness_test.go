// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// patience is how long anything may take here: the machine may be busy with other tests.
const patience = 40 * time.Second

// bin is where TestMain put the binaries.
var bin string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	bin, err = testkit.Build()
	defer os.RemoveAll(bin)
	if err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// pipeline is a folder of YAML, a bus and the services between.
type pipeline struct {
	t       *testing.T
	folder  string
	streams string // folder of the bus
	server  *embedded.Server
	port    int
	url     string
	metrics map[string]string // node to address
}

// begin makes a folder and a bus that is not started yet.
func begin(t *testing.T) *pipeline {
	t.Helper()
	t.Parallel() // most of the time is waiting
	port := freePort(t)
	return &pipeline{
		t: t, folder: t.TempDir(), streams: t.TempDir(), port: port, url: fmt.Sprintf("nats://127.0.0.1:%d", port), metrics: map[string]string{},
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func (p *pipeline) startBus() {
	p.t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: p.streams, Port: p.port})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(server.Shutdown)
	p.server = server
}

// startServices runs a watcher, a compiler and a programmer for each node.
func (p *pipeline) startServices(nodes ...string) {
	p.t.Helper()
	p.service("watcher", "--source", "directory", "--directory", p.folder)
	p.service("compiler")
	for _, node := range nodes {
		p.programmer(node)
	}
}

func (p *pipeline) programmer(node string, more ...string) {
	p.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(p.t))
	p.metrics[node] = address
	p.service("programmer", slices.Concat([]string{"--node", node, "--maps", "memory", "--listen", address}, more)...)
}

// service runs a program until stop or the test's end. It must end well when told to.
func (p *pipeline) service(program string, args ...string) (stop func()) {
	p.t.Helper()
	if !slices.Contains(args, "--listen") {
		args = append(args, "--listen", "")
	}
	cmd := exec.Command(filepath.Join(bin, program), append(args, "--bus", p.url)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended, which Wait tells
		err := cmd.Wait()
		if err != nil {
			p.t.Errorf("%s ended with %v", program, err)
		}
		if p.t.Failed() {
			text := log.Bytes()
			p.t.Logf("%s %v:\n…%s", program, args, text[max(0, len(text)-4000):])
		}
	})
	p.t.Cleanup(stop)
	return stop
}

// write puts YAML into the folder at once, as editors do.
func (p *pipeline) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.folder, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		p.t.Fatal(err)
	}
}

// status is what of `deltaplane status -o json` matters here.
type status struct {
	Healthy   bool
	Revision  uint64
	Converged int
	Hold      *struct{ Revision, Changes uint64 }
	Nodes     []node
	SetAside  []aside
}

type node struct {
	Node      string
	Converged bool
	Reason    string
	Faults    []struct{ Kind, Text string }
}

type aside struct{ Kind, Namespace, Name, Reason string }

func (a aside) String() string {
	return a.Kind + " " + strings.TrimPrefix(a.Namespace+"/"+a.Name, "/") + ": " + a.Reason
}

// deltaplane runs the command line and returns what it prints; its exit code says how the cluster is, not whether it ran.
func (p *pipeline) deltaplane(args ...string) (stdout, stderr string) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(p.t.Context(), filepath.Join(bin, "deltaplane"), append(args, "--bus", p.url)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return out.String(), errs.String()
}

func (p *pipeline) status() (s status) {
	out, errs := p.deltaplane("status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return status{Nodes: nil, SetAside: []aside{{Reason: errs}}}
	}
	return s
}

// expect waits until the status is as wanted.
func (p *pipeline) expect(want string, is func(status) bool) status {
	p.t.Helper()
	var got status
	before := p.t.Failed()
	defer func() {
		if p.t.Failed() && !before {
			p.t.Logf("want %s; the status is %+v", want, got)
		}
	}()
	testkit.Eventually(p.t, patience, func() bool {
		got = p.status()
		return is(got)
	})
	return got
}

// healthy waits until something is compiled, so many nodes are converged and nothing is set aside.
func (p *pipeline) healthy(nodes int) {
	p.t.Helper()
	p.expect(fmt.Sprintf("%d nodes converged, nothing set aside", nodes), func(s status) bool {
		return s.Revision > 0 && len(s.Nodes) == nodes && s.Converged == nodes && len(s.SetAside) == 0
	})
}

// backends reads the maps of a node: "shop/cart:80 10.244.1.3:8080", sorted; and nothing if the node doesn't answer.
func (p *pipeline) backends(node string) (rows []string) {
	out, _ := p.deltaplane("dump", "--node", node, "--table", "backends", "-o", "json")
	var dump struct {
		Backends []struct {
			Service, Address string
			Port             int
		}
	}
	if json.Unmarshal([]byte(out), &dump) != nil {
		return nil
	}
	for _, b := range dump.Backends {
		rows = append(rows, fmt.Sprintf("%s %s", b.Service, net.JoinHostPort(b.Address, fmt.Sprint(b.Port))))
	}
	slices.Sort(rows)
	return rows
}

// holds waits until a node's maps have these backends and no others.
func (p *pipeline) holds(node string, want ...string) {
	p.t.Helper()
	slices.Sort(want)
	var got []string
	before := p.t.Failed()
	defer func() {
		if p.t.Failed() && !before {
			p.t.Logf("backends of node %s (-want +got):\n%s", node, cmp.Diff(want, got))
		}
	}()
	testkit.Eventually(p.t, patience, func() bool {
		got = p.backends(node)
		return slices.Equal(got, want)
	})
}

// entries returns how many backends a node's maps have by its metrics, which need no bus; -1 if it doesn't answer.
func (p *pipeline) entries(node string) int {
	r, err := http.Get("http://" + p.metrics[node] + "/metrics")
	if err != nil {
		return -1
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return -1
	}
	_, rest, found := strings.Cut(string(text), `deltaplane_programmer_map_entries{map="backends_v3"} `)
	n := 0
	if _, err := fmt.Sscan(rest, &n); !found || err != nil {
		return -1
	}
	return n
}

func (p *pipeline) connect() *bus.Conn {
	p.t.Helper()
	conn, err := bus.Connect(p.t.Context(), bus.Options{URL: p.url, Name: "test"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(conn.Close)
	return conn
}

// YAML of objects that are good.

func nodeYAML(name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Node\nmetadata: {name: %s}\n", name)
}

func serviceYAML(name, ip string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\"}\nspec: {clusterIP: %s, ports: [{port: 80}]}\n", name, ip)
}

// sliceYAML has so many endpoints, 10.244.THIRD.1 and on.
func sliceYAML(name, service string, third, endpoints int) string {
	var all []string
	for i := range endpoints {
		all = append(all, fmt.Sprintf("{addresses: [10.244.%d.%d]}", third+i/250, i%250+1))
	}
	return fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
		"metadata: {name: %s, namespace: shop, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\n"+
		"ports: [{port: 8080}]\nendpoints: [%s]\n", name, service, strings.Join(all, ", "))
}

// backendsOf are the rows of such a slice.
func backendsOf(service string, third, endpoints int) (rows []string) {
	for i := range endpoints {
		rows = append(rows, fmt.Sprintf("shop/%s:80 10.244.%d.%d:8080", service, third+i/250, i%250+1))
	}
	return rows
}
