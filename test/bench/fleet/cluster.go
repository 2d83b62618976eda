// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/deploy/nats"
	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/internal/seal/keyfile"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// cluster is a server, a compiler and the processes with nodes, with the keys, accounts and TLS of a real one.
type cluster struct {
	plan
	dir      string
	url      string
	monitor  string
	trust    *trust.Folder
	server   *stage.Process
	compiler *stage.Process
	workers  []*worker
	conn     *bus.Conn // a watcher's
	people   *bus.Conn // an operator's
	fence    *bus.Fence
	made     *stage.Cluster
	signer   *keyfile.Signer

	keepLogs  bool
	published uint64 // the newest Fact's sequence in STATE
	number    uint64 // of the newest fact
}

func newCluster(ctx context.Context, p plan) (_ *cluster, err error) {
	c := &cluster{plan: p, made: stage.NewCluster(p.services, p.endpoints, p.nodes)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	if c.dir, err = os.MkdirTemp("", "deltaplane-fleet-"); err != nil {
		return nil, err
	}
	if c.trust, err = trust.Init(c.path("trust"), []string{"127.0.0.1"}); err != nil {
		return nil, err
	}
	if c.signer, err = keyfile.OpenSigner(c.key(trust.RoleWatcher, trust.FileSeal), slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	if err := c.placeServer(); err != nil {
		return nil, err
	}
	if err := c.startServer(); err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	if err := c.startCompiler(); err != nil {
		return nil, err
	}
	for i := range p.processes {
		w, err := startWorker(fmt.Sprintf("nodes-%d", i), c.dir)
		if err != nil {
			return nil, err
		}
		c.workers = append(c.workers, w)
	}
	return c, nil
}

func (c *cluster) path(file string) string { return filepath.Join(c.dir, file) }

// key is a file of a role's.
func (c *cluster) key(role, file string) string { return filepath.Join(c.trust.Path(role), file) }

// connect connects as a watcher, which has the streams that it writes to, and as who looks at the cluster.
func (c *cluster) connect(ctx context.Context) (err error) {
	as := func(role string) bus.Options {
		return bus.Options{
			URL: c.url, Name: "fleet benchmark, " + role,
			CredentialsFile: c.key(role, trust.FileCredentials), RootCAFile: c.key(role, trust.FileCA),
		}
	}
	if c.people, err = bus.Connect(ctx, as(trust.RoleOperator)); err != nil {
		return err
	}
	if c.conn, err = bus.Connect(ctx, as(trust.RoleWatcher)); err != nil {
		return err
	}
	if err := c.conn.EnsureStreams(ctx, 1, schemas.StateFacts); err != nil {
		return err
	}
	c.fence, err = c.conn.TakeEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch, "fleet")
	return err
}

func (c *cluster) startCompiler() (err error) {
	cmd := exec.Command(filepath.Join(c.bin, "compiler"), "--bus", c.url, "--listen", "", "--name", "compiler",
		"--bus-credentials", c.key(trust.RoleCompiler, trust.FileCredentials), "--bus-ca", c.key(trust.RoleCompiler, trust.FileCA),
		"--signing-key", c.key(trust.RoleCompiler, trust.FileSeal), "--trusted-keys", c.key(trust.RoleCompiler, trust.FileSeals))
	if c.compiler, err = stage.Start("compiler", c.path("compiler.log"), cmd); err != nil {
		return fmt.Errorf("%w (make build first)", err)
	}
	first(c.compiler)
	return nil
}

// placeServer writes the deployed configuration, deploy/nats/single.conf, for free ports of this machine.
func (c *cluster) placeServer() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	monitor, err := freePort()
	if err != nil {
		return err
	}
	c.url, c.monitor = fmt.Sprintf("tls://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d/varz", monitor)
	if err := os.Mkdir(c.path("nats"), 0o700); err != nil {
		return err
	}
	return nats.Place(c.path("nats"), c.trust.BusPath(), c.path("streams"),
		"port: 4222", fmt.Sprintf("host: 127.0.0.1\nport: %d", port), "http: 8222", fmt.Sprintf("http: \"127.0.0.1:%d\"", monitor))
}

func (c *cluster) startServer() (err error) {
	cmd := exec.Command(c.nats, "-c", filepath.Join(c.path("nats"), nats.Single))
	if c.server, err = stage.Start("nats-server", c.path("nats-server.log"), cmd); err == nil {
		first(c.server)
	}
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// tell has all processes do something, and adds what they saw.
func (c *cluster) tell(orders func(i int) order) (all virtual.Seen, err error) {
	var group errgroup.Group
	seen := make([]virtual.Seen, len(c.workers))
	for i, w := range c.workers {
		group.Go(func() (err error) {
			seen[i], err = w.do(orders(i))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return all, err
	}
	for _, s := range seen {
		all.Add(s)
	}
	return all, nil
}

func (c *cluster) do(what string) (virtual.Seen, error) {
	return c.tell(func(int) order { return order{Do: what} })
}

// startNodes shares the nodes out among the processes.
func (c *cluster) startNodes() error {
	_, err := c.tell(func(i int) order {
		o := c.nodeOptions()
		for n := i; n < c.nodes; n += len(c.workers) {
			o.Names = append(o.Names, stage.NodeName(n))
		}
		return order{Do: "start", Options: o}
	})
	return err
}

// nodeOptions are those of nodes, but for their names.
func (c *cluster) nodeOptions() *virtual.Options {
	return &virtual.Options{
		URL: c.url, Tick: c.tick, Issuer: c.key(trust.RoleWatcher, trust.FileNodes),
		CA: c.key("programmer", trust.FileCA), TrustedKeys: c.key("programmer", trust.FileSeals),
	}
}

// publish appends facts to STATE, as a watcher does.
func (c *cluster) publish(ctx context.Context, facts ...*schemas.Fact) error {
	const batch = 200
	for len(facts) > 0 {
		n := min(len(facts), batch)
		records := make([]bus.Record, n)
		data := make([][]byte, n)
		for i, fact := range facts[:n] {
			c.number++
			fact.Number = c.number
			var err error
			if records[i], err = stage.Record(fact); err != nil {
				return err
			}
			data[i] = records[i].Data
		}
		for i, sealed := range c.signer.Seal(seal.Fact, data) {
			records[i].Data = sealed
		}
		var err error
		if c.published, err = c.fence.Append(ctx, records); err != nil {
			return err
		}
		facts = facts[n:]
	}
	return nil
}

func (c *cluster) status(ctx context.Context, revision uint64) (*schemas.Status, error) {
	request, err := proto.Marshal(&schemas.StatusRequest{Revision: revision})
	if err != nil {
		return nil, err
	}
	data, err := c.people.Request(ctx, schemas.SubjectStatus, request)
	if err != nil {
		return nil, err
	}
	var s schemas.Status
	return &s, proto.Unmarshal(data, &s)
}

// convergeWithin bounds each wait.
const convergeWithin = 5 * time.Minute

// converge waits until what was published is compiled and no node lacks it, as deltaplane wait does.
func (c *cluster) converge(ctx context.Context) error {
	return c.convergeIf(ctx, func(s *schemas.Status) bool { return s.GetNodesLacking() == 0 })
}

// convergeIf waits until what was published is compiled and enough nodes have it.
func (c *cluster) convergeIf(ctx context.Context, enough func(*schemas.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, convergeWithin)
	defer cancel()
	var last *schemas.Status
	for goal := uint64(0); ; {
		s, err := c.status(ctx, max(goal, 1))
		if err == nil {
			last = s
		}
		switch {
		case err == nil && goal == 0 && s.GetStateSequence() >= c.published:
			goal = s.GetRevision()
		case err == nil && goal > 0 && enough(s) && s.GetNodesTotal() >= uint64(c.nodes):
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d: %w; %d of %d nodes lack it, such as %v", goal, errors.Join(ctx.Err(), err),
				last.GetNodesLacking(), last.GetNodesTotal(), last.GetNodes()[:min(3, len(last.GetNodes()))])
		}
	}
}

func (c *cluster) stop() (err error) {
	for _, w := range c.workers {
		err = errors.Join(err, w.input.Close(), w.Stop())
	}
	for _, conn := range []*bus.Conn{c.conn, c.people} {
		if conn != nil {
			conn.Close()
		}
	}
	for _, p := range []*stage.Process{c.compiler, c.server} {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}
	if c.keepLogs {
		fmt.Fprintf(os.Stderr, "the logs are in %s\n", c.dir)
		return errors.Join(err, os.RemoveAll(filepath.Join(c.dir, "streams")))
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}
