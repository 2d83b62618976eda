// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// Kernel is the engine that asks the real programs: it fills real maps with a node's rows, by the programmer's own
// plan, and sends the packet through with BPF_PROG_TEST_RUN. Verdict, reason and one backend are the programs'; the
// other candidates are those of the rows as they stand in the maps, read back.
//
// A socket's connect can't be run that way. Its tables and its decision are the same, so the packet that would follow,
// were there no socket hook, is run in its place, and what a socket sees is said of it.
type Kernel struct {
	loaded *kernelnode.Node
	world  *World
	name   string
	node   *refmodel.Node // what the maps say: the rows of the node of that name in world
}

// NewKernel loads the programs for questions about w, and about others that are no larger. The caller closes it.
func NewKernel(w *World) (*Kernel, error) {
	if err := bpf.Probe(); err != nil {
		return nil, fmt.Errorf("the kernel engine needs BPF: %w; --engine model needs nothing", err)
	}
	rows := 0
	for _, tables := range w.rows {
		rows += tables.Len()
	}
	loaded, err := kernelnode.New(rows, w.config.MasqueradeAll)
	if err != nil {
		return nil, err
	}
	return &Kernel{loaded: loaded}, nil
}

// Close ends the programs and maps.
func (k *Kernel) Close() { k.loaded.Close() }

func (k *Kernel) decide(w *World, c connection) (outcome, error) {
	if err := k.fill(w, c.node); err != nil {
		return outcome{}, err
	}
	o := judged(k.node, c, k.node.Decide(c.dialler(), c.protocol, c.dialled))
	if o.LeftToPackets || c.dialled.Addr().IsLoopback() {
		return o, nil // no packet of this kind is ever seen
	}
	if err := k.loaded.Forget(); err != nil {
		return outcome{}, err
	}
	run := k.loaded.FromPod
	if c.arrives {
		run = func(frame []byte) (bpf.Verdict, []byte, error) { return k.loaded.FromUplink(frame, uplink) }
	}
	before, err := k.loaded.DropCounts()
	if err != nil {
		return outcome{}, err
	}
	verdict, out, err := run(refmodel.FirstPacket(c.protocol, c.source, c.dialled))
	if err != nil {
		return outcome{}, err
	}
	reason, err := k.reasonSince(before)
	if err != nil {
		return outcome{}, err
	}
	return k.judge(c, o, verdict, reason, out)
}

// fill takes the maps to the rows and the addresses of a node.
func (k *Kernel) fill(w *World, node string) error {
	if k.world == w && k.name == node {
		return nil
	}
	for _, step := range []struct {
		kind model.LayerKind
		rows *model.Tables
	}{
		{model.LayerNode, nil}, // of another world, they might be the cluster's here
		{model.LayerCluster, w.rows[model.ClusterLayer]},
		{model.LayerNode, w.rows[model.NodeLayer(node)]},
	} {
		if step.rows == nil {
			step.rows = &model.Tables{}
		}
		if err := k.loaded.Set(step.kind, step.rows); err != nil {
			return fmt.Errorf("fill the maps of node %s: %w", node, err)
		}
	}
	around := w.surroundings(node)
	if err := k.loaded.Surround(around); err != nil {
		return fmt.Errorf("fill the maps of node %s: %w", node, err)
	}
	var layers []*refmodel.Layer
	for _, kind := range []model.LayerKind{model.LayerCluster, model.LayerNode} {
		rows, err := k.loaded.Rows(kind)
		if err != nil {
			return err
		}
		layers = append(layers, refmodel.NewLayer(rows))
	}
	k.world, k.name, k.node = w, node, refmodel.New(layers...).In(around)
	return nil
}

func (k *Kernel) reasonSince(before map[model.DropReason]uint64) (model.DropReason, error) {
	after, err := k.loaded.DropCounts()
	if err != nil {
		return 0, err
	}
	for reason, count := range after {
		if count != before[reason] {
			return reason, nil
		}
	}
	return model.ReasonNone, nil
}

// verdicts are what the programs' verdicts are in the model.
var verdicts = map[bpf.Verdict]refmodel.Verdict{bpf.Pass: refmodel.Forward, bpf.Drop: refmodel.Drop, bpf.Refuse: refmodel.Reject}

// judge reads the verdict and what came out.
func (k *Kernel) judge(c connection, o outcome, verdict bpf.Verdict, reason model.DropReason, out []byte) (outcome, error) {
	o.Verdict, o.Reason = verdicts[verdict], reason
	if verdict != bpf.Pass {
		o.Candidates, o.masqueraded = nil, nil
		o.evidence = "the kernel's programs were run: " + verdict.String()
		return o, nil
	}
	after, ok := refmodel.Parse(out)
	if !ok {
		return o, errors.New("the packet that came out of the kernel can't be read")
	}
	if o.Root == nil {
		return o, nil
	}
	chosen := after.Destination
	if !o.MayChoose(chosen) {
		return o, fmt.Errorf("the kernel sent the packet to %s, which is none of the backends in its maps: please report this", chosen)
	}
	o.evidence = fmt.Sprintf("the kernel's programs were run: this time they sent the packet to %s", chosen)
	return o, k.checkSource(c, o, chosen, out)
}

// checkSource lets the packet leave the node, if it does, and compares its source with what the rules say.
func (k *Kernel) checkSource(c connection, o outcome, chosen netip.AddrPort, translated []byte) error {
	if c.via == viaSocket {
		return nil
	}
	for i, b := range o.Candidates {
		if refmodel.AddrPort(b) != chosen {
			continue
		}
		source := c.source.Addr()
		if !k.node.StaysHere(b.Addr) || b.Addr == source {
			run := func(frame []byte) (bpf.Verdict, []byte, error) { return k.loaded.ToUplink(frame, uplink) }
			if k.node.StaysHere(b.Addr) {
				run = k.loaded.ToPod
			}
			_, out, err := run(translated)
			if err != nil {
				return err
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
