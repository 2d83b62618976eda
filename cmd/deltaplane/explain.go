// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

func newExplainCommand() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain -f PATH... | --live",
		Short: "Say what becomes of a connection, and why",
		Long: `explain takes Kubernetes YAML (-f), or the rows of a running cluster (--live), and says what becomes of a connection:
forwarded, dropped or rejected, by which Service, to which backends, and which objects are the cause.

With -f and --engine model it needs no cluster, no bus and no privileges. --engine kernel loads the real BPF programs,
fills real maps and sends the packet through them with BPF_PROG_TEST_RUN; it needs root. Both agree.

A source that is no pod and no node is a client outside the cluster whose packet arrives at --node. Of each backend that
may take it explain tells whether that node wraps its packets for the backend's node, whom the backend sees, which node
answers the client, and why. What a pod or a node sends to another node's address is followed there, unless --node says
where to stop. What may be dialled is a Service's cluster IP by the Service's name, and by address and port all else:
NodePorts, external IPs, load balancer addresses, hostPorts, and 127.0.0.1 of the node itself.

Policies are judged at the pod that connects, on its node, and at the pod that is reached, on that pod's node; both are
told, with the policies that select the pod, the rule that decided, and the rule that came nearest to allowing what none
allowed. A Service's address is never judged, but the backend's.

The configuration file (--config) may have these keys:
  podCIDRs            who sends from there is inside the cluster; default those of Node objects
  serviceCIDRs        what no Service has there is dropped, and Services without an address get one; default those
                      of ServiceCIDR objects
  nodePortAddresses   node addresses that serve NodePorts; default all
  localhostNodePorts  serve NodePorts to the node's own processes on 127.0.0.1 and ::1 too; default true
  allowExternalIPs    what externalIPs may be in; default nothing
  forwarding          how clients from outside get to backends on other nodes: tunnel, dsr or snat; default tunnel
  masqueradeAll       give all that is translated and leaves a node the node's address; default false

With --live the rows are those in the kernels of the nodes that see the connection, read over the bus when a question is
first about them.

A batch (--batch FILE, or - for standard input) has one question a line, a JSON object with the fields id, node, from,
to, proto, via. What a line leaves out is taken from the flags. The answers come in the same order, with the id.`,
		Example: `  deltaplane explain -f shop.yaml --from shop/front --to shop/cart:80
  deltaplane explain -f shop.yaml --from 192.0.2.7:40000 --node node-a --to 10.96.0.10:53 --proto udp -o json
  deltaplane explain -f shop.yaml --from 192.0.2.7 --node node-a --to 172.20.0.2:30080
  deltaplane explain -f shop.yaml --engine kernel --from shop/front --to shop/cart:80
  deltaplane explain --live --from shop/front --to shop/cart:80
  deltaplane explain -f cluster/ --batch questions.jsonl -o jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.files, "file", "f", nil, "file or directory of Kubernetes YAML; may be repeated")
	flags.BoolVar(&o.live, "live", false, "ask about the cluster whose bus this is")
	flags.StringVar(&o.question.Node, "node", "", "the node that sees the connection first; default the source's")
	flags.StringVar(&o.question.From, "from", "", "who connects: NAMESPACE/POD, node/NAME, ADDRESS or ADDRESS:PORT")
	flags.StringVar(&o.question.To, "to", "", "what is dialled: NAMESPACE/SERVICE:PORT, NAMESPACE/POD:PORT or ADDRESS:PORT")
	flags.StringVar(&o.question.Proto, "proto", "", "tcp, udp or sctp; default tcp")
	flags.StringVar(&o.question.Via, "via", "", "socket or packet: which path to explain; default what the client's own sockets take")
	flags.StringVar(&o.engine, "engine", "model", "who decides: model (the reference model) or kernel (the BPF programs)")
	flags.StringVar(&o.batch, "batch", "", "file with one question a line as JSON; - is standard input")
	flags.StringVar(&o.config, "config", "", "configuration file")
	cmd.MarkFlagsMutuallyExclusive("file", "live")
	cmd.MarkFlagsOneRequired("file", "live")
	o.format.addFlag(cmd, formatJSONL)
	o.from.add(cmd)
	return cmd
}

type explainOptions struct {
	format   outputFormat
	from     busFlags
	files    []string
	live     bool
	question explain.Question
	engine   string
	batch    string
	config   string
}

func (o *explainOptions) run(cmd *cobra.Command) error {
	if o.batch != "" && o.format != formatJSONL && cmd.Flags().Changed("output") {
		return errors.New("a batch answers with one JSON object a line: leave out -o, or give -o jsonl")
	}
	world, end, err := o.world(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer end()
	engine, closeEngine, err := o.newEngine(world)
	if err != nil {
		return err
	}
	defer closeEngine()
	if o.batch != "" {
		return o.runBatch(cmd, world, engine)
	}
	answer, err := world.Ask(engine, o.question)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	return o.format.print(out, answer, func(w io.Writer) error { return writeAnswer(w, paintFor(out), answer) })
}

func (o *explainOptions) newEngine(world *explain.World) (engine explain.Engine, end func(), err error) {
	switch o.engine {
	case "model":
		return explain.Model{}, func() {}, nil
	case "kernel":
		kernel, err := explain.NewKernel(world)
		if err != nil {
			return nil, nil, err
		}
		return kernel, kernel.Close, nil
	}
	return nil, nil, fmt.Errorf("engine %q: want model or kernel", o.engine)
}

// world is what the question is about, until end is called. Warnings go to standard error.
func (o *explainOptions) world(ctx context.Context, stderr io.Writer) (world *explain.World, end func(), err error) {
	var config explain.Config
	if o.config != "" {
		if config, err = explain.LoadConfig(o.config); err != nil {
			return nil, nil, err
		}
	}
	if o.live {
		return o.liveWorld(ctx, config)
	}
	world, warnings, err := explain.FromFiles(o.files, config)
	for _, w := range warnings {
		fmt.Fprintln(stderr, "Warning: "+w)
	}
	return world, func() {}, err
}

// liveWorld asks the bus for the objects, and each node that a question is about for the rows in its kernel.
func (o *explainOptions) liveWorld(ctx context.Context, config explain.Config) (world *explain.World, end func(), err error) {
	conn, err := o.from.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	facts, err := readFacts(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	rowsOf := func(node string) (*model.Rows, error) {
		return (&dumpJSON{Node: node}).request(ctx, conn, schemas.ActualSubject(node), "programmer of node "+node)
	}
	return explain.FromNodes(facts, rowsOf, config), conn.Close, nil
}

// readFacts reads what was last said of each object that there is.
func readFacts(ctx context.Context, conn *bus.Conn) ([]*schemas.Fact, error) {
	last := map[string]*schemas.Fact{}
	err := conn.Read(ctx, bus.ReadOptions{Stream: schemas.StateFacts.Name, Subjects: []string{schemas.SubjectAllState}}, func(r bus.Record) error {
		fact := &schemas.Fact{}
		if wire.Unmarshal(r.Data, fact) == nil {
			last[r.Subject] = fact
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the objects from the bus: %w", err)
	}
	return slices.Collect(maps.Values(last)), nil
}

func (o *explainOptions) runBatch(cmd *cobra.Command, world *explain.World, engine explain.Engine) error {
	in := cmd.InOrStdin()
	if o.batch != "-" {
		file, err := os.Open(o.batch)
		if err != nil {
			return fmt.Errorf("read questions: %w", err)
		}
		defer file.Close()
		in = file
	}
	asked, failed, err := world.Batch(cmd.Context(), engine, o.question, in, cmd.OutOrStdout())
	if err == nil && failed > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %d of %d questions could not be answered; their lines say why\n", failed, asked)
	}
	return err
}
