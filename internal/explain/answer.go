// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/schemas"
)

// connection is a question with all names resolved.
type connection struct {
	node     string
	protocol model.Protocol
	from     source
	source   netip.AddrPort
	to       target
	dialled  netip.AddrPort
	via      string
}

// Engine decides about one connection, given the rows of its node.
type Engine interface {
	decide(w *World, c connection) (outcome, error)
}

// outcome is what an engine found.
type outcome struct {
	refmodel.Decision
	chosen   netip.AddrPort // what the kernel picked; not valid if nothing was sent
	evidence string         // a step for people: how this is known
}

// Model is the engine that needs neither privileges nor a kernel: the reference model.
type Model struct{}

func (Model) decide(w *World, c connection) (outcome, error) {
	if c.via == viaNone {
		return outcome{Decision: refmodel.Decision{Verdict: refmodel.Forward}}, nil
	}
	d := w.node(c.node).NewConnection(c.protocol, c.dialled)
	if c.via == viaPacket {
		d.KeepPorts()
	}
	return outcome{Decision: d}, nil
}

// Ask answers q. The error is for a question that can't be answered as it stands.
func (w *World) Ask(engine Engine, q Question) (*Answer, error) {
	c, err := w.connection(q)
	if err != nil {
		return nil, err
	}
	o, err := engine.decide(w, c)
	if err != nil {
		return nil, err
	}
	a := &Answer{
		ID: q.ID, Verdict: o.Verdict.String(), Reason: o.Reason.String(), Candidates: candidates(o.Candidates),
		ClientAddressKept: true, Via: c.via, Causes: []Cause{},
		Policy: Policy{Ingress: PolicyVerdict{Verdict: "allow"}, Egress: PolicyVerdict{Verdict: "allow"}},
	}
	if o.Set != nil {
		service := o.Set.Service.String()
		a.Service = &service
		a.Causes = w.causes(o.Set.SetKey)
	}
	a.Steps = w.steps(c, o)
	return a, nil
}

func (w *World) connection(q Question) (connection, error) {
	if err := q.check(); err != nil {
		return connection{}, err
	}
	protocol, err := model.ParseProtocol(q.Proto)
	if err != nil {
		return connection{}, err
	}
	c := connection{protocol: protocol}
	if c.from, err = w.source(q.From); err != nil {
		return connection{}, err
	}
	if c.to, err = w.target(q.To, protocol); err != nil {
		return connection{}, err
	}
	if c.source, c.dialled, err = pair(c.from, c.to); err != nil {
		return connection{}, err
	}
	asked := q.Node
	if asked == "" && c.from.node == "" {
		asked = q.orNode
	}
	if c.node, err = w.where(asked, c.from, q.From); err != nil {
		return connection{}, err
	}
	c.via, err = path(q.Via, c.from, protocol)
	return c, err
}

// where returns the node that sees the connection first.
func (w *World) where(asked string, from source, text string) (string, error) {
	switch {
	case asked == "" && from.node == "":
		return "", fmt.Errorf("node is missing: %s is no pod and no node, so say at which node it arrives", text)
	case asked == "":
		return from.node, nil
	case !slices.Contains(w.Nodes(), asked):
		return "", fmt.Errorf("node %s: there is no such node; there is %s", quoted(asked), strings.Join(firstOf(w.Nodes(), 5), ", "))
	case from.node != "" && from.node != asked:
		return "", fmt.Errorf("node %s: %s runs on node %s; ask there", quoted(asked), text, from.node)
	}
	return asked, nil
}

// path says which hook decides. Pods' and the node's own sockets are seen by the socket hooks (TCP and UDP), pods'
// packets by the programs on their interfaces; nothing looks at packets that come from outside, or at the node's own
// SCTP, since only cluster IPs are served.
func path(asked string, from source, protocol model.Protocol) (string, error) {
	pod := from.pod != "" && !from.isHost
	local := pod || from.isHost
	switch {
	case asked == viaSocket && (!local || protocol == model.SCTP):
		return "", fmt.Errorf("via socket: no socket hook sees %s from there", protocol)
	case asked == viaPacket && !pod:
		return "", fmt.Errorf("via packet: only packets from pods with an interface of their own are looked at")
	case asked != "":
		return asked, nil
	case local && protocol != model.SCTP:
		return viaSocket, nil
	case pod:
		return viaPacket, nil
	}
	return viaNone, nil
}

func candidates(backends []model.Backend) []string {
	addrs := make([]netip.AddrPort, 0, len(backends))
	for _, b := range backends {
		addrs = append(addrs, refmodel.AddrPort(b))
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	texts := make([]string, 0, len(addrs))
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return texts
}

// causes are the Service and its EndpointSlices of the family: whatever the rows say comes from them.
func (w *World) causes(set model.SetKey) []Cause {
	name := set.Service.Namespace + "/" + set.Service.Name
	all := []Cause{}
	for _, fact := range append([]*schemas.Fact{w.services[name]}, w.slices[name]...) {
		slice := fact.GetEndpointSlice()
		if slice != nil && model.Family(slice.GetFamily()) != set.Family {
			continue
		}
		if ref := fact.GetObject(); ref != nil {
			all = append(all, Cause{ref.GetKind(), ref.GetNamespace(), ref.GetName(), ref.GetUid(), ref.GetResourceVersion(), fact.GetManager()})
		}
	}
	slices.SortFunc(all[min(1, len(all)):], func(a, b Cause) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func firstOf(list []string, n int) []string {
	if len(list) <= n {
		return list
	}
	return append(slices.Clone(list[:n]), "…")
}
