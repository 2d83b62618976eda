// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// Kernel is the engine that asks the real programs: it fills real maps with a node's rows, by the programmer's own
// plan, and sends the packet through with BPF_PROG_TEST_RUN. Candidates and names are read back out of the maps.
//
// A socket's connect can't be run that way. Its tables are the same, so the packet that would follow, were there no
// socket hook, is run in its place, and what a socket sees is said of it.
type Kernel struct {
	loaded *kernelnode.Node
	node   string
}

// NewKernel loads the programs for questions about w. The caller closes it.
func NewKernel(w *World) (*Kernel, error) {
	if err := bpf.Probe(); err != nil {
		return nil, fmt.Errorf("the kernel engine needs BPF: %w; --engine model needs nothing", err)
	}
	rows := 0
	for _, tables := range w.rows {
		rows += tables.Len()
	}
	loaded, err := kernelnode.New(rows)
	if err != nil {
		return nil, err
	}
	return &Kernel{loaded: loaded}, nil
}

// Close ends the programs and maps.
func (k *Kernel) Close() { k.loaded.Close() }

func (k *Kernel) decide(w *World, c connection) (outcome, error) {
	if c.via == viaNone {
		return outcome{Decision: refmodel.Decision{Verdict: refmodel.Forward}}, nil
	}
	if err := k.fill(w, c.node); err != nil {
		return outcome{}, err
	}
	d, err := k.lookup(c.protocol, c.dialled)
	if err != nil {
		return outcome{}, err
	}
	if c.via == viaPacket {
		d.KeepPorts()
	}
	for range sctpAttempts {
		if err := k.loaded.ForgetFlows(); err != nil {
			return outcome{}, err
		}
		verdict, out, err := k.loaded.FromPod(refmodel.FirstPacket(c.protocol, c.source, c.dialled))
		if err != nil {
			return outcome{}, err
		}
		if verdict != bpf.Drop || len(d.Candidates) == 0 {
			return k.judge(d, verdict, out)
		}
	}
	return k.judge(d, bpf.Drop, nil)
}

// sctpAttempts is how often a packet is sent that may be dropped by chance: an SCTP Service whose backends serve on
// several ports reaches those alone whose port is the Service's.
const sctpAttempts = 64

// fill takes the maps to the rows of a node.
func (k *Kernel) fill(w *World, node string) error {
	if k.node == node && node != "" {
		return nil
	}
	for kind, layer := range map[model.LayerKind]model.Layer{model.LayerCluster: model.ClusterLayer, model.LayerNode: model.NodeLayer(node)} {
		rows := w.rows[layer]
		if rows == nil {
			rows = &model.Tables{}
		}
		if err := k.loaded.Set(kind, rows); err != nil {
			return fmt.Errorf("fill the maps of node %s: %w", node, err)
		}
	}
	k.node = node
	return nil
}

// judge reads the verdict and what came out. The verdict is the programs'; the rest says what it is about.
func (k *Kernel) judge(d refmodel.Decision, verdict bpf.Verdict, out []byte) (outcome, error) {
	o := outcome{Decision: d, evidence: "the kernel's programs were run: " + verdict.String()}
	switch verdict {
	case bpf.Drop:
		o.Verdict = refmodel.Drop
		o.Candidates = nil
	case bpf.Refuse:
		o.Verdict, o.Reason = refmodel.Reject, model.ReasonNoBackend
	case bpf.Pass:
		o.Verdict, o.Reason = refmodel.Forward, model.ReasonNone
		after, ok := refmodel.Parse(out)
		if !ok {
			return o, errors.New("the packet that came out of the kernel can't be read")
		}
		o.chosen = after.Destination
		if o.Frontend != nil && !d.MayChoose(o.chosen) {
			return o, fmt.Errorf("the kernel sent the packet to %s, which is none of the backends in its maps: please report this", o.chosen)
		}
		o.evidence = fmt.Sprintf("the kernel's programs were run: this time they sent the packet to %s", o.chosen)
	}
	return o, nil
}

// lookup follows the maps as the programs do, but reads all of a set's slots.
func (k *Kernel) lookup(protocol model.Protocol, dialled netip.AddrPort) (refmodel.Decision, error) {
	var front abi.Frontend
	key := model.FrontendKey{Addr: dialled.Addr(), Port: dialled.Port(), Protocol: protocol}
	found, err := k.read(abi.Frontends, abi.Encode(abi.KeyOfFrontend(key)), &front)
	if err != nil || !found {
		return refmodel.Decision{Verdict: refmodel.Forward}, err
	}
	d := refmodel.Decision{Frontend: &model.Frontend{FrontendKey: key, Set: model.SetID(front.Set), Kind: model.FrontendKind(front.Kind)}}
	var set abi.BackendSet
	if found, err = k.read(abi.Sets, abi.Encode(front.Set), &set); err != nil || !found {
		d.Verdict, d.Reason = refmodel.Drop, model.ReasonStaleTables
		return d, err
	}
	d.Set = setRow(front.Set, &set)
	for i := range set.Count {
		backend, err := k.slot(front.Set, i)
		if err != nil {
			return d, err
		}
		if backend != nil {
			d.Candidates = append(d.Candidates, *backend)
		}
	}
	d.Verdict = refmodel.Forward
	if len(d.Candidates) == 0 {
		d.Verdict, d.Reason = refmodel.Reject, model.ReasonNoBackend
	}
	return d, nil
}

func (k *Kernel) slot(set, index uint32) (*model.Backend, error) {
	var id uint32
	found, err := k.read(abi.Slots, abi.Encode(abi.SlotKey{Set: set, Index: index}), &id)
	if err != nil || !found {
		return nil, err
	}
	var b abi.Backend
	if found, err = k.read(abi.Backends, abi.Encode(id), &b); err != nil || !found {
		return nil, err
	}
	key := model.BackendKey{Set: model.SetID(b.Set), Addr: abi.Addr(b.Addr), Port: abi.HostPort(b.Port)}
	return &model.Backend{ID: model.BackendID(id), BackendKey: key, State: model.BackendState(b.State)}, nil
}

func setRow(id uint32, s *abi.BackendSet) *model.BackendSet {
	name := abi.Text(s.Service[:])
	namespace, service := name, ""
	for i := range name {
		if name[i] == '/' {
			namespace, service = name[:i], name[i+1:]
			break
		}
	}
	return &model.BackendSet{ID: model.SetID(id), SetKey: model.SetKey{
		Service: model.ServicePort{Namespace: namespace, Name: service, Port: s.Port, Protocol: model.Protocol(s.Protocol)},
		Family:  model.Family(s.Family), Scope: model.Scope(s.Scope),
	}}
}

func (k *Kernel) read(m abi.Map, key []byte, into any) (bool, error) {
	value, found, err := k.loaded.Lookup(m, key)
	if err != nil || !found {
		return false, err
	}
	return true, abi.Decode(value, into)
}
