// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// Kernel is the engine that asks the real programs: it fills real maps with a node's rows, by the programmer's own
// plan, and sends the packet through with BPF_PROG_TEST_RUN. Verdict, reason and one backend are the programs'; the
// other candidates are those of the rows as they stand in the maps, read back. What policies say is asked of the
// programs at the pod that sends and at the pod that receives, each on its own node.
//
// A socket's connect can't be run that way. Its tables and its decision are the same, so the packet that would follow,
// were there no socket hook, is run in its place, and what a socket sees is said of it.
type Kernel struct {
	masqueradeAll bool
	nodes         []*loadedNode // the one asked last is first
}

// NewKernel loads the programs for questions about w, and about others of the same settings. The caller closes it.
func NewKernel(w *World) (*Kernel, error) {
	if err := bpf.Probe(); err != nil {
		return nil, fmt.Errorf("the kernel engine needs BPF: %w; --engine model needs nothing", err)
	}
	k := &Kernel{masqueradeAll: w.config.MasqueradeAll}
	if nodes := w.Nodes(); len(nodes) > 0 {
		return k, k.load(0, model.NodeIDOf(nodes[0]))
	}
	return k, nil
}

// Close ends the programs and maps.
func (k *Kernel) Close() {
	for _, n := range k.nodes {
		n.Close()
	}
	k.nodes = nil
}

func (k *Kernel) decide(w *World, c connection) (outcome, error) {
	n, err := k.on(w, c.node)
	if err != nil {
		return outcome{}, err
	}
	o := judged(n.held, c, n.held.Decide(c.dialler(), c.protocol, c.dialled))
	if o.LeftToPackets || c.dialled.Addr().IsLoopback() {
		return o, nil // no packet of this kind is ever seen
	}
	hook := n.FromPod
	switch {
	case c.from.isHost && !c.arrives: // policies believe no pod that says it is the node, and don't judge the node
		hook = n.unpoliced
	case c.arrives:
		hook = func(frame []byte) (bpf.Verdict, []byte, error) { return n.FromUplink(frame, uplink) }
	}
	ran, err := n.run(hook, c.protocol, c.source, c.dialled)
	if err != nil {
		return outcome{}, err
	}
	if to, is := refmodel.Wrapped(ran.out); is && c.arrives && ran.reason == model.ReasonNone {
		return k.unwrap(w, c, o, to, ran.out)
	}
	return n.read(c, o, ran)
}

// unwrap gives what the first node has wrapped to the programs of the backend's.
func (k *Kernel) unwrap(w *World, c connection, o outcome, to refmodel.Wrapping, frame []byte) (outcome, error) {
	i := slices.IndexFunc(o.Candidates, func(b model.Backend) bool { return b.ID == to.Backend })
	if i < 0 || !w.node(c.node).Reach(c.dialler(), o.Decision, o.Candidates[i]).Wraps() {
		return o, fmt.Errorf("the kernel wrapped the packet for backend %d, which its maps don't say: please report this", to.Backend)
	}
	name, first := w.placeOf(o.Candidates[i]), w.rowOf(c.node)
	there, err := k.on(w, name)
	if err != nil {
		return o, err
	}
	outer := bpf.Outer{Source: first.V4, VNI: wrappedIn}
	if !outer.Source.IsValid() {
		outer.Source = first.V6
	}
	verdict, out, err := there.FromTunnel(frame, outer, uplink)
	if err != nil {
		return o, err
	}
	after, ok := refmodel.Parse(out)
	if verdict != bpf.Pass || !ok || after.Destination != refmodel.AddrPort(o.Candidates[i]) || after.Source.Addr() != c.source.Addr() {
		return o, fmt.Errorf("the programs of node %s don't take what those of node %s have wrapped for backend %s: %s", name, c.node, refmodel.AddrPort(o.Candidates[i]), verdict)
	}
	o.ran = after.Destination
	o.evidence = fmt.Sprintf("the kernel's programs were run: this time those of node %s wrapped the packet, and those of node %s sent it to %s", c.node, name, o.ran)
	return o, nil
}

// verdicts are what the programs' verdicts are in the model.
var verdicts = map[bpf.Verdict]refmodel.Verdict{bpf.Pass: refmodel.Forward, bpf.Drop: refmodel.Drop, bpf.Refuse: refmodel.Reject}

// read says what a packet's end means.
func (n *loadedNode) read(c connection, o outcome, ran run) (outcome, error) {
	if action := actions[ran.reason]; action != 0 && action != model.ActionAllow {
		o.stopped = true
		o.evidence = "the kernel's programs were run: " + ran.reason.String()
		return o, nil
	}
	o.Verdict, o.Reason = verdicts[ran.verdict], ran.reason
	if ran.verdict != bpf.Pass {
		o.Candidates, o.masqueraded = nil, nil
		o.evidence = "the kernel's programs were run: " + ran.verdict.String()
		return o, nil
	}
	after, ok := refmodel.Parse(ran.out)
	if !ok {
		return o, errors.New("the packet that came out of the kernel can't be read")
	}
	o.ran = after.Destination
	if o.Root == nil {
		return o, nil
	}
	chosen := after.Destination
	if !o.MayChoose(chosen) {
		return o, fmt.Errorf("the kernel sent the packet to %s, which is none of the backends in its maps: please report this", chosen)
	}
	o.evidence = fmt.Sprintf("the kernel's programs were run: this time they sent the packet to %s", chosen)
	return o, n.checkSource(c, o, chosen, ran.out)
}

// checkSource lets the packet leave the node, if it does, and compares its source with what the rules say.
func (n *loadedNode) checkSource(c connection, o outcome, chosen netip.AddrPort, translated []byte) error {
	if c.via == viaSocket {
		return nil
	}
	for i, b := range o.Candidates {
		if refmodel.AddrPort(b) != chosen {
			continue
		}
		source := c.source.Addr()
		if !n.held.StaysHere(b.Addr) || b.Addr == source {
			hook := func(frame []byte) (bpf.Verdict, []byte, error) { return n.ToUplink(frame, uplink) }
			if n.held.StaysHere(b.Addr) {
				hook = n.ToPod
			}
			verdict, out, err := hook(translated)
			if err != nil {
				return err
			}
			if verdict != bpf.Pass {
				return fmt.Errorf("the kernel doesn't let the packet leave for %s: please report this", chosen)
			}
			if p, ok := refmodel.Parse(out); ok {
				source = p.Source.Addr()
			}
		}
		if masqueraded := source != c.source.Addr(); masqueraded != o.masqueraded[i] {
			return fmt.Errorf("the kernel sent the packet to %s from %s: please report this", chosen, source)
		}
	}
	return nil
}

// judge implements Engine: it sends the packet as it is at a pod's interface. The rule is that of the rows in the maps.
func (k *Kernel) judge(w *World, e end) (*ruling, error) {
	said := w.objects(e)
	if said == nil {
		return nil, nil
	}
	n, err := k.on(w, e.node)
	if err != nil {
		return nil, err
	}
	hook := n.FromPod
	if e.direction == model.Ingress {
		hook = n.ToPod
	}
	ran, err := n.run(hook, e.protocol, e.source, e.target)
	if err != nil {
		return nil, err
	}
	held, rule := byRows(n.held, n.own, e)
	action, byPolicy := actions[ran.reason]
	if !byPolicy {
		return nil, fmt.Errorf("the kernel dropped the packet to %s at pod %s for another reason than policy, %s: please report this", e.target, said.Pod, ran.reason)
	}
	if held != action {
		return nil, fmt.Errorf("the kernel says %s to the packet to %s at pod %s, its maps say %s: please report this", action, e.target, said.Pod, held)
	}
	return compared(&ruling{Ruling: said, action: action, rule: rule}, "the programs with the rows of node "+e.node), nil
}
