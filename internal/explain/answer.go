// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"errors"
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
	node     string // that decides
	protocol model.Protocol
	from     source
	source   netip.AddrPort
	to       target
	dialled  netip.AddrPort
	via      string
	arrives  bool // by an uplink of node
	onward   bool // to the node that has the dialled address, since the source's own doesn't serve it
}

// dialler returns who asks, as the rules see it.
func (c connection) dialler() refmodel.Dialler {
	switch {
	case c.arrives:
		return refmodel.Dialler{Via: refmodel.UplinkPacket, Addr: c.source.Addr()}
	case c.via == viaPacket:
		return refmodel.Dialler{Via: refmodel.PodPacket, Addr: c.source.Addr()}
	case c.from.isHost:
		return refmodel.Dialler{Via: refmodel.HostSocket, Addr: c.source.Addr()}
	}
	return refmodel.Dialler{Via: refmodel.PodSocket, Addr: c.source.Addr()}
}

// Engine decides about one connection, given the rows of its node, as if there were no policies; and says what policies
// let begin at one of its ends.
type Engine interface {
	decide(w *World, c connection) (outcome, error)
	judge(w *World, e end) (*ruling, error)
}

// outcome is what an engine found.
type outcome struct {
	refmodel.Decision
	masqueraded []bool         // for each candidate
	evidence    string         // a step for people: how this is known
	ran         netip.AddrPort // where a packet was sent that an engine ran, if it was and policies could stop it
	stopped     bool           // policies stopped the packet that an engine ran
}

// check compares what became of a packet that an engine ran with what policies say about each of its ends. One that
// arrives from elsewhere has left its pod by another name.
func (o *outcome) check(c connection, fates []fate) error {
	if c.arrives {
		return nil
	}
	for _, f := range fates {
		switch {
		case o.stopped && !f.egress.allowed():
			return nil
		case o.ran == f.target && !f.egress.allowed():
			return fmt.Errorf("the kernel let a packet to %s pass, which policies deny: please report this", f.target)
		}
	}
	if o.stopped {
		return errors.New("the kernel stopped a packet that policies allow: please report this")
	}
	return nil
}

func (o *outcome) masquerade() bool { return slices.Contains(o.masqueraded, true) }

// judged adds what the rules say of each candidate's packets.
func judged(n *refmodel.Node, c connection, d refmodel.Decision) outcome {
	o := outcome{Decision: d}
	for _, b := range d.Candidates {
		o.masqueraded = append(o.masqueraded, n.Masquerades(c.dialler(), d, b))
	}
	return o
}

// Model is the engine that needs neither privileges nor a kernel: the reference model.
type Model struct{}

func (Model) decide(w *World, c connection) (outcome, error) {
	if err := w.load(c.node); err != nil {
		return outcome{}, err
	}
	n := w.node(c.node)
	return judged(n, c, n.Decide(c.dialler(), c.protocol, c.dialled)), nil
}

// Ask answers q. The error is for a question that can't be answered as it stands.
func (w *World) Ask(engine Engine, q Question) (*Answer, error) {
	c, err := w.connection(q)
	if err != nil {
		return nil, err
	}
	c, o, err := w.follow(engine, c, q.Node == "")
	if err != nil {
		return nil, err
	}
	a := &Answer{
		ID: q.ID, Verdict: o.Verdict.String(), Reason: o.Reason.String(), Candidates: candidates(o.Candidates),
		Masquerade: o.masquerade(), ClientAddressKept: !o.masquerade(), Via: c.via, Causes: []Cause{},
	}
	if o.Set != nil {
		service := serviceOf(o.Set.SetKey).String()
		a.Service = &service
	}
	a.Causes = w.causes(c, o)
	a.External = w.external(c, o)
	a.Steps = w.steps(c, o, a.External)
	fates, err := w.fates(engine, c, o)
	if err != nil {
		return nil, err
	}
	if err := o.check(c, fates); err != nil {
		return nil, err
	}
	w.tell(a, c, fates)
	return a, nil
}

// follow asks the engine, and asks again where a socket leaves a connection to its packets, or where a node passes it on
// to the one that has the dialled address.
func (w *World) follow(engine Engine, c connection, mayGoOn bool) (connection, outcome, error) {
	if c.via == viaNone {
		return c, outcome{Decision: refmodel.Decision{Verdict: refmodel.Forward}}, nil
	}
	o, err := engine.decide(w, c)
	if err == nil && o.LeftToPackets {
		c.via = viaPacket
		o, err = engine.decide(w, c)
	}
	end := w.owners[c.dialled.Addr()].node
	if err != nil || !mayGoOn || c.from.node == "" || end == "" || end == c.node || o.Frontend != nil || o.Verdict != refmodel.Forward {
		return c, o, err
	}
	there := c
	there.node, there.via, there.arrives, there.onward = end, viaPacket, true, true
	if at, err := engine.decide(w, there); err != nil || at.Frontend != nil {
		return there, at, err
	}
	return c, o, nil
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
	if c.node, err = w.where(asked, c, q.From); err != nil {
		return connection{}, err
	}
	c.arrives = c.node != c.from.node
	if c.arrives && c.dialled.Addr().IsLoopback() {
		return connection{}, fmt.Errorf("to %s: a loopback address is never reached from elsewhere", quoted(q.To))
	}
	c.via, err = path(q.Via, c)
	return c, err
}

// where returns the node that is asked about: where the source runs, or where its packets arrive. Those of a pod or a
// node arrive elsewhere undecided only if they are for an address of that node.
func (w *World) where(asked string, c connection, text string) (string, error) {
	from := c.from
	switch {
	case asked == "" && from.node == "":
		return "", fmt.Errorf("node is missing: %s is no pod and no node, so say at which node it arrives", text)
	case asked == "":
		return from.node, nil
	case !slices.Contains(w.Nodes(), asked):
		return "", fmt.Errorf("node %s: there is no such node; there is %s", quoted(asked), strings.Join(firstOf(w.Nodes(), 5), ", "))
	case from.node != "" && from.node != asked && w.owners[c.dialled.Addr()].node != asked:
		return "", fmt.Errorf("node %s: %s runs on node %s; ask there", quoted(asked), text, from.node)
	}
	return asked, nil
}

// path says which hook decides. Pods' and the node's own sockets are seen by the socket hooks (TCP and UDP), pods'
// packets by the programs on their interfaces, and what comes from elsewhere by those on the uplinks; nothing looks at
// the node's own SCTP, since no socket hook sees it.
func path(asked string, c connection) (string, error) {
	host := c.from.isHost && !c.arrives
	packets := c.arrives || !host
	sockets := !c.arrives && c.protocol != model.SCTP
	switch {
	case asked == viaSocket && !sockets:
		return "", fmt.Errorf("via socket: no socket hook sees %s from there", c.protocol)
	case asked == viaPacket && !packets:
		return "", fmt.Errorf("via packet: the node's own processes are seen by the socket hooks alone")
	case asked != "":
		return asked, nil
	case sockets:
		return viaSocket, nil
	case packets:
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

// causes are the Service and its EndpointSlices of the family: whatever the rows say comes from them. Of a hostPort it
// is the pod, and of a cluster IP's other ports the Service that has the address.
func (w *World) causes(c connection, o outcome) []Cause {
	all := []Cause{}
	add := func(fact *schemas.Fact) {
		if fact.GetObject() != nil {
			all = append(all, causeOf(fact))
		}
	}
	switch {
	case o.Set == nil:
		add(w.services[w.vips[c.dialled.Addr()]])
		return all
	case o.Set.Scope == model.ScopeHostPort:
		pod := serviceOf(o.Set.SetKey)
		add(w.pods[pod.Namespace+"/"+pod.Name])
		return all
	}
	name := o.Set.Service.Namespace + "/" + o.Set.Service.Name
	add(w.services[name])
	services := len(all)
	for _, fact := range w.slices[name] {
		if model.Family(fact.GetEndpointSlice().GetFamily()) == o.Set.Family {
			add(fact)
		}
	}
	slices.SortFunc(all[services:], func(a, b Cause) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func causeOf(fact *schemas.Fact) Cause {
	ref := fact.GetObject()
	return Cause{ref.GetKind(), ref.GetNamespace(), ref.GetName(), ref.GetUid(), ref.GetResourceVersion(), fact.GetManager()}
}

// serviceOf returns the ServicePort of a set; for a hostPort that is the pod, without the address that it may be for.
func serviceOf(set model.SetKey) model.ServicePort {
	if set.Scope == model.ScopeHostPort {
		set.Service.Name, _, _ = strings.Cut(set.Service.Name, "@")
	}
	return set.Service
}

func firstOf(list []string, n int) []string {
	if len(list) <= n {
		return list
	}
	return append(slices.Clone(list[:n]), "…")
}
