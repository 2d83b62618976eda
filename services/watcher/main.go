// SPDX-License-Identifier: Apache-2.0

// Command watcher publishes what a cluster's objects say about packets: one Fact an object, the last one kept, in
// the bus's stream STATE. Its source is a Kubernetes API server or a folder of YAML.
//
// It is a shell around core, which decides what is published, and convert, which makes facts of objects. It promises
// that a restart with nothing new publishes no object, that of several watchers only one publishes while the others
// follow the source and STATE and take over within two seconds, and that nothing is lost while the bus or the source is
// away: whoever leads knows all that the source has and all that STATE holds.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/config"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/services/watcher/core"
	"github.com/deltaplane/deltaplane/services/watcher/directory"
	"github.com/deltaplane/deltaplane/services/watcher/kube"
)

// The sources there are.
const (
	sourceKubernetes = "kubernetes"
	sourceDirectory  = "directory"
)

// programmerAccount is the ServiceAccount of programmers.
const programmerAccount = "programmer"

// settings are what a watcher can be told.
type settings struct {
	config.Common
	source         string
	directories    []string
	kubeconfig     string
	apiServer      string
	name           string
	maxDeleteShare float64
	replicas       int
	signingKey     string
	joinKeys       string
	namespace      string
}

// Flags adds the flags.
func (s *settings) Flags(flags *pflag.FlagSet) {
	s.Common.Flags(flags, "127.0.0.1:10470")
	flags.StringVar(&s.source, "source", sourceKubernetes, "where objects come from: `kubernetes` or directory")
	flags.StringSliceVar(&s.directories, "directory", nil, "`folder` or file of YAML, for --source directory; may be given several times")
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `file` for --source kubernetes (default: the pod's ServiceAccount)")
	flags.StringVar(&s.apiServer, "api-server", "", "`URL` of an API server, in place of the kubeconfig's or the Service's; needed where nothing else programs Services")
	flags.StringVar(&s.name, "name", "", "`name` of this watcher among several (default the host's)")
	flags.Float64Var(&s.maxDeleteShare, "max-delete-share", core.DefaultMaxDeleteShare,
		"`share`, 0 to 1, of the published objects that one list may delete without approval; 1 asks for none")
	flags.StringVar(&s.signingKey, "signing-key", "", "`file` with the Ed25519 key (PEM, PKCS #8) that seals facts; empty seals nothing")
	flags.IntVar(&s.replicas, "replicas", 1, "`copies` of the stream STATE: 1, 3 or 5")
	flags.StringVar(&s.namespace, "namespace", "deltaplane-system", "`namespace` of that ServiceAccount")
	flags.StringVar(&s.joinKeys, "join-keys", "", "`folder` with door.creds, answers.nk and nodes.nk of deltaplane trust init: lets nodes join by the tokens of the\n"+
		"ServiceAccount programmer, and gives them credentials; empty lets none")
}

func (s *settings) check() error {
	switch {
	case s.source != sourceKubernetes && s.source != sourceDirectory:
		return fmt.Errorf("--source %q: want %s or %s", s.source, sourceKubernetes, sourceDirectory)
	case s.source == sourceDirectory && len(s.directories) == 0:
		return fmt.Errorf("--source directory needs --directory: the folder to read")
	case s.source == sourceKubernetes && len(s.directories) > 0:
		return fmt.Errorf("--directory is for --source directory; with --source kubernetes leave it out")
	case s.source == sourceDirectory && s.joinKeys != "":
		return fmt.Errorf("--join-keys needs --source kubernetes: an API server knows nodes' tokens; without one make credentials with deltaplane trust node")
	case s.maxDeleteShare < 0 || s.maxDeleteShare > 1:
		return fmt.Errorf("--max-delete-share %g: want a share from 0 to 1", s.maxDeleteShare)
	}
	return nil
}

const example = `# Watch the cluster that the watcher runs in.
watcher --bus nats://10.0.0.1:4222

# Watch a folder of YAML.
watcher --source directory --directory ./cluster --bus nats://127.0.0.1:4222`

func main() {
	s := &settings{}
	os.Exit(config.Main(config.Command("watcher", "Publish a cluster's objects as facts on the bus.", example, s,
		func(ctx context.Context) error { return run(ctx, s) })))
}

func run(ctx context.Context, s *settings) error {
	if err := s.check(); err != nil {
		return err
	}
	log, err := telemetry.Logger(os.Stderr, s.LogFormat, s.LogLevel)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the host's name: %w; give --name", err)
	}
	w := newService(s, cmp.Or(s.name, host), log)
	if err := w.choose(s); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return telemetry.Serve(ctx, s.Listen, w.metrics.registry, w.checks()...) })
	group.Go(func() error { return w.run(ctx) })
	if s.joinKeys != "" {
		group.Go(func() error { return w.keepDoor(ctx, w.reviewer) })
	}
	return group.Wait()
}

// choose sets where objects come from.
func (w *service) choose(s *settings) error {
	if s.source == sourceDirectory {
		w.useDirectory(s.directories)
		return nil
	}
	client, err := kube.Connect(kube.Options{Kubeconfig: s.kubeconfig, APIServer: s.apiServer, UserAgent: "watcher " + w.name, Log: w.log})
	if err != nil {
		return err
	}
	w.log.Info("the source is a Kubernetes API server", "server", client.Server)
	w.reviewer = kube.Reviewer{Client: client.Tokens, Namespace: s.namespace, ServiceAccount: programmerAccount}
	w.useKubernetes(&kube.Source{
		Client: client, Dynamic: client.Dynamic, Log: w.log,
		OnWatch: func(kind string) { w.metrics.watches.WithLabelValues(kind).Inc() },
	})
	w.recorder = kube.NewRecorder(client, w.metrics.dropped.Inc)
	return nil
}

func (w *service) useDirectory(paths []string) {
	w.source, w.kinds, w.sourceName = directory.New(paths, w.log), directory.Kinds, sourceDirectory
}

func (w *service) useKubernetes(source *kube.Source) {
	w.source, w.kinds, w.sourceName, w.versioned = source, kube.Kinds, sourceKubernetes, true
}

// busOptions say how the watcher connects.
func (w *service) busOptions() bus.Options {
	return bus.Options{
		URL: w.settings.Bus, Name: "watcher " + w.name, Log: w.log, OnReconnect: w.reconnected,
		CredentialsFile: w.settings.BusCredentials, RootCAFile: w.settings.BusCA,
	}
}
