// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func newFlowsCommand() *cobra.Command {
	var format outputFormat
	var from busFlags
	var o flowsOptions
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show what pods are connected to, by which rule, and what was dropped of late",
		Long: `flows asks nodes for the connections of their pods that policies judge, with the rule that allowed each, and for the
kinds of drops that they remember, with the rule or the policies that denied them. While the cluster has no policy no
connection is tracked, so there are only drops.

A connection between two pods is known at both: as egress at the one that began it, as ingress at the other. Behind a
Service it is shown between client and backend. Nodes answer with what they saw last, up to --limit of each.

With --services it asks instead for what became of each Service's packets on each node: what was dropped, by reason, and
the flows that clients began from outside the node, by how they go on. local is to a backend of the node; tunnel and dsr
are wrapped, for a backend of another, and answered through this node or straight; snat is in the node's name.

With -f flows goes on with connections that begin and drops that happen, until Ctrl-C. With -o json each is then an
object on a line of its own, with "type": "connection" or "drop".`,
		Example: `  deltaplane flows --pod shop/cart
  deltaplane flows -f --drops
  deltaplane flows --services
  deltaplane flows --node node-a -o json | jq -r '.connections[] | select(.rule == "") | .pod'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			f := &flows{flowsOptions: o, format: format, conn: conn, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), names: newNames()}
			f.paint = paintFor(f.out)
			if err := f.names.readFacts(cmd.Context(), conn); err != nil {
				return fmt.Errorf("read the pods' names: %w", err)
			}
			if o.onlyServices {
				list, err := f.askServices(cmd.Context())
				if err != nil {
					return err
				}
				return format.print(f.out, list, list.write)
			}
			if o.follow {
				return f.run(cmd.Context())
			}
			list, err := f.ask(cmd.Context())
			if err != nil {
				return err
			}
			return format.print(f.out, list, func(w io.Writer) error { return list.write(w, o.onlyDrops) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.follow, "follow", "f", false, "go on with what begins or is dropped later, until Ctrl-C")
	flags.BoolVar(&o.onlyDrops, "drops", false, "drops alone")
	flags.BoolVar(&o.onlyServices, "services", false, "what became of each Service's packets, in place of connections and drops")
	flags.StringVar(&o.node, "node", "", "ask one node (default all)")
	flags.StringVar(&o.pod, "pod", "", "of one pod alone, as NAMESPACE/NAME")
	flags.Uint32Var(&o.limit, "limit", flowsLimit, "how many connections, and how many drops, each node answers with at most, up to 10000")
	format.addFlag(cmd, formatJSONL)
	from.add(cmd)
	return cmd
}

// flowsLimit is enough to see what goes on, and some 300 kB a node.
const flowsLimit = 1000

type flowsOptions struct {
	follow, onlyDrops bool
	onlyServices      bool
	node, pod         string
	limit             uint32
}

func (o *flowsOptions) check() error {
	if namespace, name, _ := strings.Cut(o.pod, "/"); o.pod != "" && (namespace == "" || name == "") {
		return fmt.Errorf("--pod %q: want NAMESPACE/NAME", o.pod)
	}
	if o.onlyServices && (o.follow || o.onlyDrops || o.pod != "") {
		return fmt.Errorf("--services shows counts of whole nodes: it goes with --node, not with -f, --drops or --pod")
	}
	if o.limit == 0 || o.limit > 10000 {
		return fmt.Errorf("--limit %d: want 1 to 10000", o.limit)
	}
	return nil
}

// flows asks nodes again and again, or once.
type flows struct {
	flowsOptions
	format    outputFormat
	conn      *bus.Conn
	out, errs io.Writer
	names     *names
	paint     paint
	silent    map[string]bool // nodes that did not answer, and of which that was said
}

// askAtOnce bounds the nodes that are asked at a time.
const askAtOnce = 32

// ask asks all nodes that it is about for connections and drops.
func (f *flows) ask(ctx context.Context) (*flowsJSON, error) {
	all := newFlowsJSON()
	err := f.askAll(ctx, func(node string) (func(), error) {
		list, err := f.askNode(ctx, node)
		return func() { all.add(list) }, err
	})
	if err != nil {
		return nil, err
	}
	all.sort()
	return all, nil
}

// askServices asks them for the counts of Services.
func (f *flows) askServices(ctx context.Context) (*servicesJSON, error) {
	all := newServicesJSON()
	err := f.askAll(ctx, func(node string) (func(), error) {
		list, understood := newServicesJSON(), false
		err := f.request(ctx, node, &schemas.FlowsRequest{OnlyServices: true}, func(reply *schemas.FlowsReply) {
			understood = understood || reply.GetOnlyServices()
			list.add(node, reply)
		})
		if err == nil && !understood {
			err = fmt.Errorf("the programmer of node %s is of a version that counts nothing of Services: upgrade it", node)
		}
		return func() {
			all.Services = append(all.Services, list.Services...)
			all.Uncounted += list.Uncounted
		}, err
	})
	if err != nil {
		return nil, err
	}
	all.sort()
	return all, nil
}

// askAll asks all nodes that it is about, and adds up what they answer, one after the other. One that doesn't answer is
// named; if none does, or it was the one to ask, that is an error.
func (f *flows) askAll(ctx context.Context, askNode func(node string) (add func(), err error)) error {
	nodes := []string{f.node}
	if f.node == "" {
		status, err := readStatus(ctx, f.conn)
		if err != nil {
			return fmt.Errorf("find the nodes (--node asks one without): %w", err)
		}
		nodes = convertAll(status.Nodes, func(n nodeStatus) string { return n.Node })
	}
	failed := map[string]error{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(askAtOnce)
	for _, node := range nodes {
		group.Go(func() error {
			add, err := askNode(node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[node] = err
				return nil
			}
			add()
			return nil
		})
	}
	_ = group.Wait() // none fails: what went wrong is in failed
	if len(failed) > 0 && len(failed) == len(nodes) {
		return failed[nodes[0]]
	}
	f.nameFailed(failed)
	return nil
}

// nameFailed says which nodes are missing, once.
func (f *flows) nameFailed(failed map[string]error) {
	for node := range f.silent {
		if failed[node] == nil {
			delete(f.silent, node)
		}
	}
	for node, err := range failed {
		if f.silent == nil {
			f.silent = map[string]bool{}
		}
		if !f.silent[node] {
			fmt.Fprintf(f.errs, "node %s is missing: %v\n", node, err)
		}
		f.silent[node] = true
	}
}

func (f *flows) askNode(ctx context.Context, node string) (*flowsJSON, error) {
	list := newFlowsJSON()
	request := &schemas.FlowsRequest{Pod: f.pod, OnlyDrops: f.onlyDrops, Limit: f.limit}
	err := f.request(ctx, node, request, func(reply *schemas.FlowsReply) {
		list.Total += reply.GetConnectionsTotal()
		for _, c := range reply.GetConnections() {
			list.Connections = append(list.Connections, f.names.connection(node, c))
		}
		for _, d := range reply.GetDrops() {
			list.Drops = append(list.Drops, f.names.drop(node, d))
		}
	})
	return list, err
}

// request asks one node, and hands on the parts of its answer in order.
func (f *flows) request(ctx context.Context, node string, request *schemas.FlowsRequest, each func(*schemas.FlowsReply)) error {
	data, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	sequence := uint32(0)
	who := "programmer of node " + node
	err = f.conn.RequestMany(ctx, schemas.FlowsSubject(node), data, bus.AnswerWithin, func(answer []byte) (bool, error) {
		var reply schemas.FlowsReply
		if err := wire.Unmarshal(answer, &reply); err != nil {
			return false, err
		}
		wire.CleanStrings(&reply)
		if reply.GetRefused() != "" {
			return false, fmt.Errorf("the %s refuses: %s", who, reply.GetRefused())
		}
		if reply.GetSequence() != sequence {
			return false, fmt.Errorf("a part of the answer is lost (part %d came instead of %d); ask again", reply.GetSequence(), sequence)
		}
		sequence++
		each(&reply)
		return !reply.GetLast(), nil
	})
	switch {
	case errors.Is(err, bus.ErrNobody):
		return fmt.Errorf("the %s doesn't answer on the bus: does it run, and is the name right?", who)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the %s doesn't answer in time: it may be stopped, or too busy", who)
	}
	return err
}

// sort puts what was seen last in front.
func (l *flowsJSON) sort() {
	slices.SortFunc(l.Connections, func(a, b connectionJSON) int {
		return cmp.Or(cmp.Compare(a.IdleSeconds, b.IdleSeconds), cmp.Compare(a.Node, b.Node), strings.Compare(a.String(), b.String()))
	})
	slices.SortFunc(l.Drops, func(a, b recentDropJSON) int {
		return cmp.Or(b.Latest.Compare(a.Latest), cmp.Compare(a.Node, b.Node), strings.Compare(a.String(), b.String()))
	})
}
