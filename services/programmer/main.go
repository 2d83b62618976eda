// SPDX-License-Identifier: Apache-2.0

// Command programmer keeps one node's tables in its kernel: it applies the compiler's deltas to the node's BPF maps,
// attaches the programs to the sockets and to the pods' interfaces, verifies what the maps hold, and reports.
//
// It is a shell around core, which decides everything, and holds no Kubernetes credential and no Kubernetes meaning. It
// promises that whatever happens to it, to the bus or to the compiler, what is in the kernel goes on forwarding; that a
// restart with nothing new writes nothing; and that what it can't do it names in its log, in readyz and on the bus.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/cgroup"
	"github.com/deltaplane/deltaplane/internal/config"
	"github.com/deltaplane/deltaplane/internal/maglev"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/telemetry"
	"github.com/deltaplane/deltaplane/services/programmer/node"
	"github.com/deltaplane/deltaplane/services/programmer/tunnel"
)

// The kinds of maps.
const (
	mapsKernel = "kernel"
	mapsMemory = "memory"
)

// settings are what a programmer can be told.
type settings struct {
	config.Common
	node        string
	cgroup      string
	pinDir      string
	maps        string
	capacities  [abi.MapCount]uint32
	flows       uint32
	affinities  uint32
	connections uint32
	maglevSize  uint32
	counts      uint32
	timeouts    bpf.Timeouts

	joinCredentials, joinToken, credentialDir string

	policyReject    bool
	keepEstablished bool
	checkSources    bool

	healthz       string
	masqueradeAll bool
	nodePorts     []string
	localhost     bool
	uplinks       []string
	xdp           bpf.XDPMode
	found         node.Options // of the flags above

	tunnel    tunnel.Device
	tunnelVNI uint32

	trustedKeys string
}

// Flags adds the flags.
func (s *settings) Flags(flags *pflag.FlagSet) {
	s.Common.Flags(flags, "127.0.0.1:10473")
	flags.StringVar(&s.node, "node", "", "`name` of this node, as Kubernetes knows it (default the host's name)")
	flags.StringVar(&s.joinCredentials, "join-credentials", "", "credentials `file` to join the bus with, by a ServiceAccount token, in place of --bus-credentials")
	flags.StringVar(&s.joinToken, "join-token", "/var/run/secrets/deltaplane/token", "`file` with that token: projected into the pod, for audience deltaplane-bus")
	flags.StringVar(&s.credentialDir, "credential-dir", "", "`folder` where the credential that follows from joining outlives this process; empty joins anew")
	flags.StringVar(&s.cgroup, "cgroup", "", "cgroup (version 2) `folder` whose sockets reach Services (default the root cgroup)")
	flags.StringVar(&s.pinDir, "pin-dir", "/sys/fs/bpf/deltaplane",
		"`folder` on a bpffs where maps and programs outlive this process; empty lets them end with it")
	flags.StringVar(&s.trustedKeys, "trusted-keys", "", "`file` with the public keys (PEM) of compilers, whose messages alone are used; empty believes everyone on the bus")
	flags.StringVar(&s.maps, "maps", mapsKernel, "where the tables go: `kernel`, or memory, which forwards nothing and needs no rights")
	for m, name := range capacityFlags {
		if name == "" {
			continue
		}
		flags.Uint32Var(&s.capacities[m], name, bpf.DefaultCapacities[abi.Map(m)],
			"`entries` that map "+abi.Map(m).String()+" has room for; pinned maps grow to it, and shrink if what is in use fits")
	}
	flags.Uint32Var(&s.flows, "flows", bpf.DefaultFlows, "`entries` of the connection table of per-packet translation: two a flow, four if it is masqueraded,\n"+
		"one if its backend is on another node that it is wrapped for")
	flags.Uint32Var(&s.affinities, "max-affinities", bpf.DefaultAffinities, "`entries` of the table of clients with session affinity")
	flags.Uint32Var(&s.connections, "max-connections", bpf.DefaultConnections, "`entries` of the table of pods' connections, of which there is one a connection while there are policies")
	flags.Uint32Var(&s.counts, "max-service-counts", bpf.DefaultServiceCounts, "`entries` of the table of Services' counts: one a Service and reason of drops or way of flows")
	flags.Uint32Var(&s.maglevSize, "maglev-size", maglev.DefaultSize, "`slots` of a Maglev table, a prime: 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071, the same on all nodes;\n"+
		"a hundred times the backends of a Service or more; each of --max-maglev-tables takes four bytes a slot, at once: 16 MiB as they are,\n"+
		"512 MiB with 131071, which counts against the pod's limit of memory (1 GiB in deploy/manifests)")
	flags.BoolVar(&s.policyReject, "policy-reject", false, "answer a connection that NetworkPolicies isolate a pod from, by a RST or ICMP;\n"+
		"what a ClusterNetworkPolicy denies is never answered")
	flags.BoolVar(&s.keepEstablished, "policy-keep-established", false, "let connections go on that policies have ceased to allow")
	flags.BoolVar(&s.checkSources, "policy-check-sources", true, "while there are policies, drop what a pod sends from an address that isn't its own;\n"+
		"off for routers and virtual machines in pods, which can then evade policies")
	flags.StringVar(&s.healthz, "healthz-address", "0.0.0.0:10256",
		"`address` of /healthz and /livez for load balancers, as kube-proxy has them; empty is none, as with tables in memory")
	flags.BoolVar(&s.masqueradeAll, "masquerade-all", false, "give the node's address to all that leaves for a backend elsewhere, whoever sent it")
	flags.StringSliceVar(&s.nodePorts, "node-port-addresses", nil, "`prefixes` of the node's addresses that serve NodePorts (default all)")
	flags.BoolVar(&s.localhost, "localhost-node-ports", true, "let the node's own processes reach NodePorts by its loopback addresses")
	flags.StringSliceVar(&s.uplinks, "uplinks", nil, "`patterns` of the names of interfaces that packets from outside come by and leave by, such as eth*,bond0\n"+
		"(default all that are up and have an address that others can reach, but for those of pods and those in a bridge or bond)")
	flags.Uint16Var(&s.tunnel.Port, "tunnel-port", tunnel.DefaultPort, "UDP `port` by which nodes send packets of outside clients on to each other in VXLAN, the same on all nodes;\n"+
		"0 is none: then what comes to this node reaches pods on others with this node's address")
	flags.Uint32Var(&s.tunnelVNI, "tunnel-vni", tunnel.DefaultVNI, "VXLAN network `number` of those packets, 1 to 16777215, the same on all nodes")
	flags.StringVar((*string)(&s.xdp), "xdp", string(bpf.XDPOff), "`where` uplinks' frames are forwarded to other nodes, or dropped, before they are packets: auto, native, generic or off;\n"+
		"auto is in the driver of hardware whose driver can; no hardware has been tried yet, and most lose packets when it is attached")
	s.timeoutFlags(flags)
}

// timeoutFlags adds how long flows are kept without a packet.
func (s *settings) timeoutFlags(flags *pflag.FlagSet) {
	d := bpf.DefaultTimeouts
	for _, f := range []struct {
		to    *time.Duration
		name  string
		is    time.Duration
		usage string
	}{
		{&s.timeouts.TCPEstablished, "conntrack-tcp-established", d.TCPEstablished, "of an established TCP connection"},
		{&s.timeouts.TCPUnanswered, "conntrack-tcp-unanswered", d.TCPUnanswered, "of a TCP connection that was not answered"},
		{&s.timeouts.TCPClosing, "conntrack-tcp-closing", d.TCPClosing, "of a TCP connection that one side or both have ended"},
		{&s.timeouts.TCPReset, "conntrack-tcp-reset", d.TCPReset, "of a TCP connection that was reset"},
		{&s.timeouts.UDPUnanswered, "conntrack-udp-unanswered", d.UDPUnanswered, "of UDP that was not answered"},
		{&s.timeouts.UDPAnswered, "conntrack-udp-answered", d.UDPAnswered, "of UDP that was answered"},
		{&s.timeouts.SCTP, "conntrack-sctp", d.SCTP, "of an SCTP association"},
		{&s.timeouts.ICMP, "conntrack-icmp", d.ICMP, "of an echo, which policies judge"},
		{&s.timeouts.Other, "conntrack-other", d.Other, "of other protocols, which policies judge"},
	} {
		flags.DurationVar(f.to, f.name, f.is, "how long a flow or connection is kept without a packet: "+f.usage)
	}
}

// capacityFlags has a flag for each map but the one of the node's own row.
var capacityFlags = [abi.MapCount]string{
	abi.Frontends: "max-frontends", abi.Views: "max-views", abi.Sets: "max-sets", abi.Slots: "max-slots", abi.Backends: "max-backends", abi.Nodes: "max-nodes", abi.MaglevIndex: "max-maglev-tables",
	abi.Endpoints: "max-endpoints", abi.SourceRanges: "max-source-ranges", abi.Networks: "max-networks", abi.HealthChecks: "max-health-checks",
	abi.Peers: "max-peers", abi.Blocks: "max-blocks", abi.Verdicts: "max-verdicts", abi.PortVerdicts: "max-port-verdicts",
	abi.RuleSets: "max-rule-sets", abi.Rules: "max-rules",
}

// check fills in defaults that depend on the machine.
func (s *settings) check() (err error) {
	if s.node == "" {
		if s.node, err = os.Hostname(); err != nil {
			return fmt.Errorf("find this node's name (give it with --node): %w", err)
		}
	}
	if s.joinCredentials != "" && s.BusCredentials != "" {
		return fmt.Errorf("--bus-credentials and --join-credentials: want one; a node that joins gets its credentials from the watcher")
	}
	if s.maps != mapsKernel && s.maps != mapsMemory {
		return fmt.Errorf("--maps %q: want %s or %s", s.maps, mapsKernel, mapsMemory)
	}
	if s.tunnelVNI == 0 || s.tunnelVNI > 1<<24-1 {
		return fmt.Errorf("--tunnel-vni %d: want a number from 1 to %d", s.tunnelVNI, 1<<24-1)
	}
	if p := bpf.DefaultNodePorts; s.tunnel.Port >= p.First && s.tunnel.Port <= p.Last {
		return fmt.Errorf("--tunnel-port %d: want one that no NodePort can have, not from %d to %d", s.tunnel.Port, p.First, p.Last)
	}
	s.tunnel.Node = model.NodeIDOf(s.node)
	if err := s.xdp.Check(); err != nil {
		return fmt.Errorf("--xdp: %w", err)
	}
	if err := maglev.CheckSize(s.maglevSize); err != nil {
		return fmt.Errorf("--maglev-size: %w", err)
	}
	s.found = node.Options{LocalhostNodePorts: s.localhost, Uplinks: s.uplinks}
	for _, text := range s.nodePorts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("--node-port-addresses %q: want a prefix such as 192.0.2.0/24", text)
		}
		s.found.NodePortAddresses = append(s.found.NodePortAddresses, p.Masked())
	}
	if err := s.found.Check(); err != nil {
		return err
	}
	if s.maps == mapsMemory {
		s.healthz = "" // such programmers run several on a machine
	}
	if s.maps == mapsKernel && s.cgroup == "" {
		if s.cgroup, err = cgroup.Root(); err != nil {
			return fmt.Errorf("find the root cgroup (give it with --cgroup): %w", err)
		}
	}
	return nil
}

const example = `
# On a node of a cluster:
programmer --node node-a --bus nats://10.0.0.1:4222
# Without privileges, to see what a node would hold:
programmer --node node-a --maps memory
# Take off everything that it left in the kernel:
programmer cleanup`

// garbagePercent trades little CPU for memory: taking a first snapshot of 250,000 backends makes much that is garbage
// soon after (measured: 140 to 170 MiB at the most instead of 155 to 280, with as much CPU). GOGC in the environment overrules it.
const garbagePercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	var s settings
	cmd := config.Command("programmer", "Keep one node's tables in its kernel", example, &s, s.run)
	cmd.AddCommand(cleanupCommand())
	os.Exit(config.Main(cmd))
}

func (s *settings) run(ctx context.Context) error {
	log, err := telemetry.Logger(os.Stderr, s.LogFormat, s.LogLevel)
	if err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	return serve(ctx, s, log.With("node", s.node))
}

// cleanupCommand removes what programmers leave in the kernel on purpose.
func cleanupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cleanup", Short: "Detach all programs and remove the pinned maps: Services are no longer reached", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
	}
	pinDir := cmd.Flags().String("pin-dir", "/sys/fs/bpf/deltaplane", "the `folder` that the programmer was given")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, errDevice := tunnel.Remove(false) // first: it mustn't be without its program
		if err := errors.Join(errDevice, bpf.RemovePins(*pinDir)); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "nothing of deltaplane is left in %s\n", *pinDir)
		return nil
	}
	return cmd
}
