// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/schemas"
)

// waitPause is between two looks at the status.
const waitPause = 50 * time.Millisecond

func newWaitCommand() *cobra.Command {
	var format outputFormat
	var from busFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [KIND/NAMESPACE/NAME | KIND/NAME | REVISION]",
		Short: "Wait until a change is in the kernel of every node",
		Long: `wait returns when every node has applied what an object says now: after "kubectl apply" it asks the watcher, which looks
at the API server, how far the bus must be read to have the object as it is, waits until the compiler has come that far,
and then until no node lacks that revision. Without an argument it does so for everything that the watcher has been
told; a number is a revision. Nodes that are lost (their Lease has expired and their programmer is silent) aren't
waited for. While a rollback is held, nodes lack what objects say, so only a revision can be waited for. It exits with 3,
and names the nodes that lack it with why, when the time is over.`,
		Example: `  deltaplane wait
  kubectl apply -f cart.yaml && deltaplane wait service/shop/cart --timeout 10s
  deltaplane wait networkpolicy/shop/allow-web -o json
  deltaplane wait 812344`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := parseGoal(args)
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return fmt.Errorf("--timeout %s: want more than none, such as 30s", timeout)
			}
			conn, err := from.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			began := time.Now()
			err = what.wait(ctx, conn)
			if err != nil && (ctx.Err() == nil || cmd.Context().Err() != nil) {
				return err
			}
			r := what.result(time.Since(began), timeout)
			out := cmd.OutOrStdout()
			if !r.Live && format == formatTable {
				out = cmd.ErrOrStderr()
			}
			if err := format.print(out, r, func(w io.Writer) error { _, err := fmt.Fprintln(w, r.Text); return err }); err != nil {
				return err
			}
			if !r.Live {
				return exitStatus(exitNotHealthy)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	format.addFlag(cmd)
	from.add(cmd)
	return cmd
}

// waitJSON is what -o json prints. Scripts read it.
type waitJSON struct {
	Live     bool   `json:"live"`
	Revision uint64 `json:"revision"`
	// ResourceVersion is the object's that was waited for, as the API server had it.
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// Nodes is how many are waited for, NodesLacking how many of them lack the revision, Lost how many aren't waited for.
	Nodes        uint64        `json:"nodes"`
	NodesLacking uint64        `json:"nodesLacking"`
	Lost         uint64        `json:"lost"`
	Lacking      []lackingJSON `json:"lacking"` // some of them
	WaitedMillis float64       `json:"waitedMillis"`
	Text         string        `json:"text"`
}

type lackingJSON struct {
	Node   string `json:"node"`
	Behind uint64 `json:"behind"`
	Reason string `json:"reason"`
}

// goal is what is waited for: a revision, or what the watcher has seen, of an object or at all.
type goal struct {
	object   *schemas.ObjectRef // none is everything
	revision uint64             // 0 until it is known
	sequence uint64             // of STATE, that has to be compiled; 0 until it is known

	seen   *schemas.SeenReply
	status *schemas.Status // the last answer
	asked  error           // why there is no answer of late
}

func parseGoal(args []string) (*goal, error) {
	if len(args) == 0 {
		return &goal{}, nil
	}
	if revision, err := strconv.ParseUint(args[0], 10, 64); err == nil && revision > 0 {
		return &goal{revision: revision}, nil
	}
	object, err := parseObject(args[0])
	if err != nil {
		return nil, fmt.Errorf("wait for %q: %w", args[0], err)
	}
	return &goal{object: object}, nil
}

func parseObject(text string) (*schemas.ObjectRef, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return nil, errors.New("want a revision, KIND/NAMESPACE/NAME such as service/shop/cart, or KIND/NAME")
	}
	kind := kindOf(parts[0])
	switch {
	case kind == "":
		return nil, fmt.Errorf("%s is no kind that deltaplane watches: want one of %s", parts[0], strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	case slices.Contains(kindsWithoutNamespace, kind) && len(parts) == 3:
		return nil, fmt.Errorf("a %s is in no namespace: want %s/NAME", kind, parts[0])
	case !slices.Contains(kindsWithoutNamespace, kind) && len(parts) == 2:
		return nil, fmt.Errorf("a %s is in a namespace: want %s/NAMESPACE/%s", kind, parts[0], parts[1])
	case len(parts) == 2:
		return &schemas.ObjectRef{Kind: kind, Name: parts[1]}, nil
	}
	return &schemas.ObjectRef{Kind: kind, Namespace: parts[1], Name: parts[2]}, nil
}

// kinds by what people call them, as kubectl takes it.
var kinds = map[string]string{
	"service": "Service", "svc": "Service", "endpointslice": "EndpointSlice", "pod": "Pod", "po": "Pod", "node": "Node", "no": "Node",
	"namespace": "Namespace", "ns": "Namespace", "networkpolicy": "NetworkPolicy", "netpol": "NetworkPolicy",
	"clusternetworkpolicy": "ClusterNetworkPolicy", "cnp": "ClusterNetworkPolicy",
}

var kindsWithoutNamespace = []string{"Namespace", "Node", "ClusterNetworkPolicy"}

// kindOf returns the kind that is called so, empty if none is.
func kindOf(called string) string {
	called, _, _ = strings.Cut(strings.ToLower(called), ".") // service.v1
	singular := strings.TrimSuffix(called, "s")
	if y, plural := strings.CutSuffix(called, "ies"); plural {
		singular = y + "y"
	}
	return cmp.Or(kinds[called], kinds[singular])
}

// wait returns once every node has it. Whoever doesn't answer for a while may be failing over: it is asked again.
func (g *goal) wait(ctx context.Context, conn *bus.Conn) error {
	for {
		done, err := g.look(ctx, conn)
		if err != nil || done {
			return err
		}
		select {
		case <-time.After(waitPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look asks once whatever is to be asked next.
func (g *goal) look(ctx context.Context, conn *bus.Conn) (done bool, err error) {
	if g.revision == 0 && g.seen == nil {
		var seen schemas.SeenReply
		if err := ask(ctx, conn, schemas.SubjectSeen, "watcher", &schemas.SeenRequest{Object: g.object}, &seen); err != nil {
			if ctx.Err() == nil || g.asked == nil { // else the time is over; what was wrong before counts
				g.asked = err
			}
			return false, denied(err)
		}
		switch {
		case seen.GetUnknown():
			return false, fmt.Errorf("there is no %s, and there was none: is the name right?", g.title())
		case seen.GetRefused() != "":
			g.asked = errors.New(seen.GetRefused())
			return false, nil
		}
		g.seen, g.sequence = &seen, seen.GetStateSequence()
	}
	var s schemas.Status
	err = ask(ctx, conn, schemas.SubjectStatus, "compiler", &schemas.StatusRequest{Revision: max(g.revision, 1)}, &s)
	if err != nil && ctx.Err() != nil && g.status != nil {
		return false, nil // the time is over; what was said before counts
	}
	if g.asked = err; err != nil {
		return false, denied(err)
	}
	g.status = &s
	if g.held() {
		return false, nil
	}
	if g.revision == 0 {
		if s.GetStateEpoch() != g.seen.GetStateEpoch() {
			// STATE was made anew, or another watcher leads: its numbers are others.
			g.asked = fmt.Errorf("the compiler reads STATE of epoch %d, the watcher writes epoch %d", s.GetStateEpoch(), g.seen.GetStateEpoch())
			g.seen = nil
			return false, nil
		}
		if s.GetStateSequence() < g.sequence {
			return false, nil
		}
		// All that was compiled so far includes it. Who has this revision is asked from now on.
		g.revision = s.GetRevision()
		return g.revision == 0, nil // nothing was ever compiled for any node
	}
	return s.GetRevision() >= g.revision && s.GetNodesLacking() == 0, nil
}

// held says that nodes have what an older revision had, and not what the objects say now.
func (g *goal) held() bool { return g.seen != nil && g.status.GetHold() != nil }

// denied returns the error if asking again won't help: the credentials stay what they are.
func denied(err error) error {
	if errors.Is(err, bus.ErrDenied) {
		return err
	}
	return nil
}

func (g *goal) title() string {
	o := g.object
	return strings.TrimSuffix(strings.Join([]string{o.GetKind(), o.GetNamespace(), o.GetName()}, "/"), "/")
}

func (g *goal) result(waited, timeout time.Duration) waitJSON {
	s := g.status
	r := waitJSON{
		Revision: g.revision, ResourceVersion: g.seen.GetResourceVersion(), Nodes: s.GetNodesTotal() - s.GetNodesLost(),
		NodesLacking: s.GetNodesLacking(), Lost: s.GetNodesLost(), WaitedMillis: millis(waited),
		Lacking: convertAll(s.GetNodes(), func(n *schemas.NodeStatus) lackingJSON {
			return lackingJSON{n.GetNode(), n.GetBehind(), n.GetReason()}
		}),
	}
	r.Live = s != nil && !g.held() && g.asked == nil && (g.revision > 0 || g.sequence > 0) && s.GetRevision() >= g.revision && s.GetStateSequence() >= g.sequence && r.NodesLacking == 0
	if !r.Live {
		r.Text = fmt.Sprintf("not live everywhere after %s: %s", timeout, g.missing(&r))
		return r
	}
	r.Text = fmt.Sprintf("live on %s of %s nodes: revision %s", grouped(r.Nodes), grouped(r.Nodes), grouped(r.Revision))
	if r.Lost > 0 {
		r.Text += fmt.Sprintf(" (%s lost nodes aren't waited for)", grouped(r.Lost))
	}
	if h := holdFromProto(s.GetHold()); h != nil {
		r.Text += "; " + h.text(time.Now())
	}
	return r
}

func (g *goal) missing(r *waitJSON) string {
	switch {
	case g.asked == nil && g.held():
		return holdFromProto(g.status.GetHold()).text(time.Now())
	case g.asked != nil:
		return g.asked.Error()
	case g.status == nil:
		return "nobody has answered"
	case g.revision == 0:
		return fmt.Sprintf("the compiler has compiled STATE up to message %s, not yet to %s", grouped(g.status.GetStateSequence()), grouped(g.sequence))
	case g.status.GetRevision() < g.revision:
		return fmt.Sprintf("the cluster is at revision %s, before %s", grouped(g.status.GetRevision()), grouped(g.revision))
	}
	var names []string
	for _, n := range r.Lacking[:min(len(r.Lacking), 10)] {
		names = append(names, n.Node+" ("+n.Reason+")")
	}
	text := fmt.Sprintf("revision %s isn't on %s", grouped(g.revision), strings.Join(names, ", "))
	if more := r.NodesLacking - uint64(len(names)); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
