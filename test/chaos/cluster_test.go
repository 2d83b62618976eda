// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/schemas"
)

// patience is how long anything may take that has no bound of its own: the machine may be busy with other tests.
const patience = 60 * time.Second

// servers, watchers, compilers and nodes that a cluster has. Streams have as many copies as there are servers.
const (
	servers, watchers, compilers = 3, 2, 2
	nodes                        = 3
	processes                    = servers + watchers + compilers + nodes
)

// diskBytes is the size of a bus server's disk.
const diskBytes = 64 << 20

// cluster is one that is broken again and again.
type cluster struct {
	*lab.Lab
	witness *witness
	changes *changes // nil before the first
}

// running is the cluster that one experiment leaves to the next. One that failed takes it down.
var running *cluster

func takeDown() error {
	if running == nil {
		return nil
	}
	c := running
	running = nil
	c.witness.close()
	return c.Shutdown()
}

// up returns a cluster in which all is well.
func up(t *testing.T) *cluster {
	t.Helper()
	testkit.NeedKernel(t)
	if running == nil {
		running = newCluster(t)
	}
	defer func() {
		if t.Failed() { // the next one has a cluster of its own
			if err := takeDown(); err != nil {
				t.Error(err)
			}
		}
	}()
	running.well(t)
	return running
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	objects := manifest.Decode("town", []byte(town))
	check(t, objects.Err())
	program := filepath.Join(binaries, "deltaplane")
	l, err := lab.Up(t.Context(), objects, lab.Options{
		Name: fmt.Sprintf("test-chaos-%d", os.Getpid()), Binaries: binaries, Agent: []string{program, "lab", "agent"},
		ProgrammerFlags: []string{"--listen", metricsAddress}, Nodes: nodes,
		Machines: &lab.Machines{
			Servers: servers, DiskBytes: diskBytes, Watchers: watchers, Compilers: compilers,
		},
	})
	check(t, err)
	w, err := newWitness(l)
	if err != nil {
		t.Fatal(err, l.Shutdown())
	}
	return &cluster{Lab: l, witness: w}
}

// well waits until all processes run, and all nodes hold what they should without a fault.
func (c *cluster) well(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	check(t, c.Converged(ctx))
	var s status
	defer func() {
		if t.Failed() {
			t.Logf("the status is %+v", s)
		}
	}()
	waitFor(t, "a cluster in which all is well", func() bool {
		s = c.status(ctx)
		return s.well() && len(c.Processes()) == processes
	})
}

// status is what of `deltaplane status -o json` matters here.
type status struct {
	Leader   string
	Revision uint64
	Nodes    []struct {
		Node      string
		Converged bool
		Reason    string
		Faults    []struct{ Kind, Text string }
	}
	Streams        []struct{ Problems []string }
	WatcherProblem string
	// Problem is what the command said on its standard error.
	Problem string
}

// well says whether nothing is wrong now. That a stream was made anew is told for ten minutes.
func (s status) well() bool {
	for _, n := range s.Nodes {
		if !n.Converged || len(n.Faults) > 0 {
			return false
		}
	}
	for _, stream := range s.Streams {
		for _, problem := range stream.Problems {
			if !strings.Contains(problem, "made anew at") && !strings.Contains(problem, "went back from") {
				return false
			}
		}
	}
	return len(s.Nodes) == nodes && len(s.Streams) == len(schemas.Streams) && s.WatcherProblem == ""
}

// status asks as people do, from the client outside.
func (c *cluster) status(ctx context.Context) (s status) {
	out, problem := c.deltaplane(ctx, "status", "-o", "json")
	if err := json.Unmarshal(out, &s); err != nil {
		return status{Problem: problem}
	}
	s.Problem = problem
	return s
}

// deltaplane runs the command line on the client outside. Its exit code says how the cluster is, not whether it ran.
func (c *cluster) deltaplane(ctx context.Context, args ...string) (stdout []byte, stderr string) {
	var out, problem bytes.Buffer
	as := c.BusOptions()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "deltaplane"),
		append(args, "--bus", as.URL, "--bus-credentials", as.CredentialsFile, "--bus-ca", as.RootCAFile)...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	place, err := c.Place("outside")
	if err == nil {
		err = space.Start(cmd, space.OpenNamespace(place.Namespace), nil)
	}
	if err != nil {
		return nil, err.Error()
	}
	_ = cmd.Wait()
	return out.Bytes(), problem.String()
}

// epochs of services: where who leads is written down.
var epochs = map[string]struct{ stream, subject string }{
	"watcher":  {schemas.StateFacts.Name, schemas.SubjectStateEpoch},
	"compiler": {schemas.Deltas.Name, schemas.SubjectEpoch},
}

// leader returns the process that leads a service, as its stream has it.
func (c *cluster) leader(t *testing.T, service string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var newest schemas.Epoch
	where := epochs[service]
	check(t, c.Conn().Read(ctx, bus.ReadOptions{Stream: where.stream, Subjects: []string{where.subject}}, func(r bus.Record) error {
		return proto.Unmarshal(r.Data, &newest)
	}))
	if !slices.Contains(c.Processes(), newest.GetHolder()) {
		t.Fatalf("%q leads the %ss, which is none of %v", newest.GetHolder(), service, c.Processes())
	}
	return newest.GetHolder()
}

// of returns the processes whose names begin so: bus, watcher, compiler, programmer.
func (c *cluster) of(prefix string) (names []string) {
	for _, name := range c.Processes() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// logs are what all processes have said last.
func (c *cluster) logs() string {
	files, _ := filepath.Glob(filepath.Join(c.Logs(), "*.log"))
	var text strings.Builder
	for _, file := range files {
		data, _ := os.ReadFile(file)
		fmt.Fprintf(&text, "--- %s\n%s\n", filepath.Base(file), data[max(0, len(data)-20000):])
	}
	return text.String()
}
