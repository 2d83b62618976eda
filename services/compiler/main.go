// SPDX-License-Identifier: Apache-2.0

// Command compiler works out what every node's tables must hold, from the facts in the bus's stream STATE, and
// says so in deltas, in the stream DELTA and to the nodes.
//
// It is a shell around core, which decides everything. It promises that of several compilers one leads, that a
// new leader goes on from the log as if nothing had happened, and that nothing is told to a node that the log
// hasn't accepted. The one thing to know before changing it: whenever something may have gone wrong with the log
// or the bus, the session ends, and the next one reads everything again. There is no other repair.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/deltaplane/deltaplane/internal/config"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/services/compiler/compile"
	"github.com/deltaplane/deltaplane/services/compiler/policy"
	"github.com/deltaplane/deltaplane/services/compiler/state"
)

// settings are what a compiler can be told.
type settings struct {
	config.Common
	name      string
	replicas  int
	reportDir string
	// Files of keys; empty does without.
	signingKey, trustedKeys string
	// Of what is compiled, in CIDR notation.
	externalIPs, podCIDRs, serviceCIDRs []string
	forwarding                          string // of clients from outside, unless a Service says so itself
	policy                              policy.Limits
}

// Flags adds the flags.
func (s *settings) Flags(flags *pflag.FlagSet) {
	s.Common.Flags(flags, "127.0.0.1:10471")
	flags.StringVar(&s.name, "name", "", "`name` of this compiler among several (default the host's)")
	flags.IntVar(&s.replicas, "replicas", 1, "`copies` of the streams DELTA, STATE, APPLIED and EVENTS: 1, 3 or 5")
	flags.StringVar(&s.signingKey, "signing-key", "", "`file` with the Ed25519 key (PEM, PKCS #8) that seals what nodes are told; empty seals nothing")
	flags.StringVar(&s.trustedKeys, "trusted-keys", "", "`file` with the public keys (PEM) of watchers and compilers, whose messages alone are used; empty believes everyone on the bus")
	flags.StringVar(&s.reportDir, "report-dir", "", "`folder` for a report, should incremental and full compilation ever differ; empty logs it only")
	flags.StringSliceVar(&s.externalIPs, "allow-external-ips", nil, "`prefixes` that externalIPs of Services may be from (default none)")
	flags.StringVar(&s.forwarding, "forwarding", "tunnel", "`how` clients from outside get to backends on other nodes under externalTrafficPolicy Cluster, unless a Service's annotation deltaplane.io/forwarding says so itself: tunnel and dsr keep their address (answers come back the same way, or straight from the backend's node), snat doesn't")
	flags.StringSliceVar(&s.podCIDRs, "pod-cidrs", nil, "`prefixes` of pods' addresses (default those found out about the cluster and its nodes)")
	flags.IntVar(&s.policy.Combinations, "max-policy-combinations", 16_384, "`rules` × peers × prefixes of ports that one policy may have in one direction; one with more is refused, and closes what it selects")
	flags.IntVar(&s.policy.Peers, "max-policy-peers", 1024, "`peers` by selector that one policy may name in one direction; one with more is refused, and closes what it selects")
	flags.IntVar(&s.policy.Ports, "max-policy-ports", 4096, "`rows` by port that the policies of one pod may have for one group of peers; beyond, they are refused")
	flags.IntVar(&s.policy.Blocks, "max-policy-blocks", 4096, "`prefixes` that one policy may name, excepted ones included; one with more is refused")
	flags.StringSliceVar(&s.serviceCIDRs, "service-cidrs", nil, "`prefixes` of ClusterIPs (default those found out about the cluster)")
}

func (s *settings) check() error {
	switch s.replicas {
	case 1, 3, 5:
	default:
		return fmt.Errorf("--replicas %d: want 1, 3 or 5", s.replicas)
	}
	for name, limit := range map[string]int{
		"combinations": s.policy.Combinations, "peers": s.policy.Peers, "ports": s.policy.Ports, "blocks": s.policy.Blocks,
	} {
		if limit < 1 || limit > maxPolicyLimit {
			return fmt.Errorf("--max-policy-%s %d: want 1 to %d", name, limit, maxPolicyLimit)
		}
	}
	_, err := s.compile()
	return err
}

// maxPolicyLimit bounds what a policy may be allowed to come to: a node's maps have room for some such policies.
const maxPolicyLimit = 1 << 20

// compile returns what is compiled by.
func (s *settings) compile() (c compile.Settings, err error) {
	if c.AllowExternalIPs, err = compile.ParsePrefixes(s.externalIPs); err != nil {
		return c, fmt.Errorf("--allow-external-ips: %w", err)
	}
	if c.PodCIDRs, err = compile.ParseNetworks(s.podCIDRs); err != nil {
		return c, fmt.Errorf("--pod-cidrs: %w", err)
	}
	if c.ServiceCIDRs, err = compile.ParseNetworks(s.serviceCIDRs); err != nil {
		return c, fmt.Errorf("--service-cidrs: %w", err)
	}
	if s.forwarding != "" {
		if c.Forwarding, err = state.ParseForwarding(s.forwarding); err != nil {
			return c, fmt.Errorf("--forwarding: %w", err)
		}
	}
	c.Policy = s.policy
	return c, nil
}

const example = `# Compile for all nodes; a second one on another host stands by.
compiler --bus nats://10.0.0.1:4222,nats://10.0.0.2:4222,nats://10.0.0.3:4222 --replicas 3`

// garbagePercent trades some CPU for memory: a first compilation makes much that is garbage soon after. GOGC in
// the environment overrules it.
const garbagePercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	s := &settings{}
	os.Exit(config.Main(config.Command("compiler", "Work out what every node's tables must hold.", example, s,
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
	c := newService(s, cmp.Or(s.name, host), log)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return telemetry.Serve(ctx, s.Listen, c.metrics.registry, c.checks()...) })
	group.Go(func() error { return c.run(ctx) })
	return group.Wait()
}
