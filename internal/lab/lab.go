// SPDX-License-Identifier: Apache-2.0

// Package lab runs a cluster in network namespaces: nodes, pods and outside clients from plain Kubernetes YAML, with
// the real services programming real kernels' maps. It plays control plane, scheduler and kubelet; the data plane is
// the product's own.
//
// It promises that all of it is in one directory, one cgroup and namespaces held by that directory, so that a later
// process can take everything down after a crash, and that pods come and go as in Kubernetes: a new pod serves before
// it is published, an old one is published as terminating, finishes what it has, and only then goes.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/trust"
)

// Options say what kind of lab to build. The zero value is the lab named "lab" with three nodes and all services.
type Options struct {
	// Name tells labs on one machine apart; empty is "lab".
	Name string
	// Nodes is how many to make if the objects have none; 0 makes three.
	Nodes int
	// Kubeconfig is for a real API server that objects go to; empty gives the watcher a directory of YAML.
	Kubeconfig string
	// Bus is the URL of a bus that runs already; empty starts one inside this process.
	Bus string
	// Machines has bus and services on machines of their own; nil runs them where the lab runs.
	Machines *Machines
	// Binaries is the folder with watcher, compiler and programmer; empty is that of this process's executable.
	Binaries string
	// NoServices builds pods and nodes alone: addresses of pods work, those of Services don't.
	NoServices bool
	// ServiceCIDRs are the ranges that Services get addresses from; empty leaves them to the objects.
	ServiceCIDRs []netip.Prefix
	// CompilerFlags and ProgrammerFlags are given to each compiler and programmer besides those that they need here.
	CompilerFlags, ProgrammerFlags []string
	// Memory needs no root and makes no namespaces: programmers keep their maps in memory, and the reference model
	// decides what becomes of probes.
	Memory bool
	// Agent is the command that runs agent.Serve; empty is this process's executable with "lab agent".
	Agent []string
	// Log gets what happens; nil drops it.
	Log *slog.Logger
}

// Lab is a running cluster.
type Lab struct {
	options Options
	dir     dir
	log     *slog.Logger
	root    *space.Cgroup
	fabric  *fabric.Fabric
	trust   *trust.Folder // nil if the bus isn't the lab's own
	bus     *embedded.Server
	conn    *bus.Conn
	proxy   *proxy
	sink    sink
	fleet   *fleet
	state   stateView

	// change is held by whoever changes the cluster, from the first step to the last.
	change sync.Mutex

	mu       sync.Mutex
	declared *manifest.Objects // as applied
	cluster  *manifest.Objects // as expanded, and as published
	nodes    map[string]*node
	pods     map[string]*pod // by namespace/name
	machines map[string]*machine
	clients  map[string]*client
}

// Up builds a lab from objects and returns when its pods serve; the services may still be on their way: see Converged.
func Up(ctx context.Context, objects *manifest.Objects, options Options) (*Lab, error) {
	l, err := prepare(options)
	if err != nil {
		return nil, err
	}
	if err := l.build(ctx, objects); err != nil {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		return nil, errors.Join(err, l.Close(ending))
	}
	return l, nil
}

func prepare(options Options) (*Lab, error) {
	if options.Name == "" {
		options.Name = DefaultName
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if len(options.Agent) == 0 {
		options.Agent = []string{"/proc/self/exe", "lab", "agent"}
	}
	d, err := dirOf(options.Name)
	if err != nil {
		return nil, err
	}
	if err := d.claim(); err != nil {
		return nil, err
	}
	l := &Lab{
		options: options, dir: d, log: options.Log, fleet: newFleet(options.Log),
		declared: &manifest.Objects{}, cluster: &manifest.Objects{}, nodes: map[string]*node{}, pods: map[string]*pod{},
		machines: map[string]*machine{}, clients: map[string]*client{},
	}
	if options.Memory {
		return l, nil
	}
	root, err := cgroupOf(options.Name)
	if err == nil {
		l.root, err = space.NewCgroup(root)
	}
	if err != nil {
		return nil, errors.Join(err, space.Clear(string(d)))
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context, objects *manifest.Objects) error {
	if !l.options.Memory {
		if err := l.startFabric(); err != nil {
			return err
		}
	}
	if err := l.startBus(ctx); err != nil {
		return err
	}
	if err := l.startSink(ctx); err != nil {
		return err
	}
	if err := l.populate(ctx, objects); err != nil {
		return err
	}
	// After the objects, so that the watcher's first list has them all.
	if err := l.startServices(); err != nil {
		return err
	}
	return l.dir.writeState(l.State())
}

func (l *Lab) startFabric() (err error) {
	if l.fabric, err = fabric.New(l.dir.namespaces()); err != nil {
		return err
	}
	return l.AddClient(Outside)
}

// populate makes the first cluster. Nothing is waited for: nobody depends on it yet.
func (l *Lab) populate(ctx context.Context, objects *manifest.Objects) error {
	l.change.Lock()
	defer l.change.Unlock()
	for object := range objects.All() {
		l.declared.Add(object)
	}
	_, err := l.advance(ctx, l.declared)
	return err
}

// Close takes the lab down: processes, servers, namespaces, cgroups, mounts, files.
func (l *Lab) Close(ctx context.Context) error {
	start := time.Now()
	l.mu.Lock()
	var places []*place
	for _, c := range l.clients {
		places = append(places, c.place)
	}
	for _, n := range l.nodes {
		places = append(places, n.place)
	}
	for _, p := range l.pods {
		if p.server != nil {
			p.server.Close()
		}
		places = append(places, p.place)
	}
	l.mu.Unlock()
	for _, p := range places {
		if p != nil {
			p.closeAgent()
		}
	}
	l.fleet.stop()
	if l.conn != nil {
		l.conn.Close()
	}
	if l.proxy != nil {
		l.proxy.Close()
	}
	if l.bus != nil {
		l.bus.Shutdown()
	}
	err := l.closeSink(ctx)
	if l.fabric != nil {
		err = errors.Join(err, l.fabric.Close())
	}
	if l.root != nil {
		err = errors.Join(err, l.root.Remove(ctx))
	}
	err = errors.Join(err, space.Clear(string(l.dir)))
	l.log.Info("the lab is down", "lab", l.options.Name, "took", time.Since(start).Round(time.Millisecond))
	return err
}

// closeTime bounds taking a lab down.
const closeTime = 20 * time.Second

// BusURL returns where the bus is for clients outside the lab's namespaces, or on the fabric if it has machines.
func (l *Lab) BusURL() string {
	switch {
	case l.bus != nil:
		return l.bus.URL()
	case l.options.Machines != nil:
		return l.serversURL()
	}
	return l.options.Bus
}

// Conn returns the lab's own connection to the bus; nil without services.
func (l *Lab) Conn() *bus.Conn { return l.conn }

// Logs returns the folder with the services' logs.
func (l *Lab) Logs() string { return l.dir.logs() }

// Cluster returns all objects as they are published now. The caller doesn't change them.
func (l *Lab) Cluster() *manifest.Objects {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cluster.Clone()
}

func (l *Lab) binary(name string) (string, error) {
	folder := l.options.Binaries
	if folder == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find this program's folder: %w", err)
		}
		folder = filepath.Dir(self)
	}
	path := filepath.Join(folder, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the lab runs %s, which isn't there: %w; build all with: make build", name, err)
	}
	return path, nil
}

// Shutdown is Close for whoever is ending, within a time that a person accepts.
func (l *Lab) Shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return l.Close(ctx)
}
