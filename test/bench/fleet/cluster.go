// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/seal"
	"github.com/deltaplane/deltaplane/schemas"
	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// cluster is a server, a compiler and the processes with nodes.
type cluster struct {
	plan
	dir      string
	url      string
	monitor  string
	server   *stage.Process
	compiler *stage.Process
	workers  []*worker
	conn     *bus.Conn
	fence    *bus.Fence
	made     *stage.Cluster
	signer   *seal.Signer

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
	if err := c.makeKeys(); err != nil {
		return nil, err
	}
	if err := c.startServer(); err != nil {
		return nil, err
	}
	if c.conn, err = bus.Connect(ctx, bus.Options{URL: c.url, Name: "fleet benchmark"}); err != nil {
		return nil, err
	}
	if err := c.conn.EnsureStreams(ctx, 1, schemas.Streams...); err != nil {
		return nil, err
	}
	if c.fence, err = c.conn.TakeEpoch(ctx, schemas.StateFacts.Name, schemas.SubjectStateEpoch, "fleet"); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(p.bin, "compiler"), "--bus", c.url, "--listen", "", "--name", "compiler",
		"--signing-key", c.path(signingKey), "--trusted-keys", c.path(trustedKeys))
	if c.compiler, err = stage.Start("compiler", filepath.Join(c.dir, "compiler.log"), cmd); err != nil {
		return nil, fmt.Errorf("%w (make build first)", err)
	}
	for _, process := range []*stage.Process{c.server, c.compiler} {
		if err := process.First(); err != nil {
			fmt.Println("# server and compiler compete with the nodes for the processors:", err)
		}
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

// The files of the keys that seal facts and deltas.
const (
	signingKey  = "signing-key.pem"
	trustedKeys = "trusted-keys.pem"
)

func (c *cluster) path(file string) string { return filepath.Join(c.dir, file) }

// makeKeys makes one key, for the watcher that is played here and for the compiler.
func (c *cluster) makeKeys() error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	c.signer = seal.NewSigner(private)
	if err := os.WriteFile(c.path(signingKey), seal.EncodePrivateKey(private), 0o600); err != nil {
		return err
	}
	return os.WriteFile(c.path(trustedKeys), seal.EncodePublicKey(public), 0o600)
}

// startServer runs nats-server with the limits of deploy/nats/cluster.conf.
func (c *cluster) startServer() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	monitor, err := freePort()
	if err != nil {
		return err
	}
	c.url, c.monitor = fmt.Sprintf("nats://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d/varz", monitor)
	config := fmt.Sprintf(`host: 127.0.0.1
port: %d
http: 127.0.0.1:%d
max_payload: 1MB
max_pending: 16MB
ping_interval: "10s"
jetstream { store_dir: %q, max_file_store: 8GB }
`, port, monitor, filepath.Join(c.dir, "streams"))
	path := filepath.Join(c.dir, "nats.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	c.server, err = stage.Start("nats-server", filepath.Join(c.dir, "nats-server.log"), exec.Command(c.nats, "-c", path))
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
		o := &virtual.Options{URL: c.url, Tick: c.tick, TrustedKeys: c.path(trustedKeys)}
		for n := i; n < c.nodes; n += len(c.workers) {
			o.Names = append(o.Names, stage.NodeName(n))
		}
		return order{Do: "start", Options: o}
	})
	return err
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
	data, err := c.conn.Request(ctx, schemas.SubjectStatus, request)
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

// varz is what the server counts.
type varz struct {
	Connections   int   `json:"connections"`
	InMessages    int64 `json:"in_msgs"`
	OutMessages   int64 `json:"out_msgs"`
	InBytes       int64 `json:"in_bytes"`
	OutBytes      int64 `json:"out_bytes"`
	SlowConsumers int64 `json:"slow_consumers"`
}

func (c *cluster) varz() (v varz, err error) {
	reply, err := http.Get(c.monitor)
	if err != nil {
		return v, err
	}
	defer reply.Body.Close()
	return v, json.NewDecoder(reply.Body).Decode(&v)
}

func (c *cluster) stop() (err error) {
	for _, w := range c.workers {
		err = errors.Join(err, w.input.Close(), w.Stop())
	}
	if c.conn != nil {
		c.conn.Close()
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
