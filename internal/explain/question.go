// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"errors"
)

// Question asks what becomes of one new connection.
type Question struct {
	ID    json.RawMessage `json:"id,omitempty"` // echoed in the answer
	Node  string          `json:"node,omitempty"`
	From  string          `json:"from,omitempty"`
	To    string          `json:"to,omitempty"`
	Proto string          `json:"proto,omitempty"`
	Via   string          `json:"via,omitempty"`

	orNode string // the node for a source that is on none, if Node is empty
}

// Answer is what becomes of it. Scripts read it.
type Answer struct {
	ID                json.RawMessage `json:"id,omitempty"`
	Verdict           string          `json:"verdict"` // forward, drop or reject
	Reason            string          `json:"reason"`  // none, or a drop reason's word
	Service           *string         `json:"service"` // "namespace/name:port"; null if the packet is for no service
	Candidates        []string        `json:"candidates"`
	Masquerade        bool            `json:"masquerade"`
	ClientAddressKept bool            `json:"clientAddressKept"`
	Via               string          `json:"via"`
	Target            string          `json:"target,omitempty"`   // the candidate, or the address, that policy is told of
	External          *External       `json:"external,omitempty"` // of a client from outside, to what is there for such
	Policy            Policy          `json:"policy"`
	Steps             []string        `json:"steps"`
	Causes            []Cause         `json:"causes"`

	// For people: whom the connection is from, over which Service, to which end; and how the engine knows of a denial.
	Path, Evidence string `json:"-"`
}

// Policy is what network policy says where the connection leaves and where it arrives.
type Policy struct {
	Ingress PolicyVerdict `json:"ingress"`
	Egress  PolicyVerdict `json:"egress"`
	// Denied are the candidates that policies don't let it begin to, if there are others.
	Denied []string `json:"denied,omitempty"`
}

// PolicyVerdict is one direction's. Rule and policy are null if none was needed to decide. Of a pod that is isolated, or
// closed, the policies that do that are named together, and no rule.
type PolicyVerdict struct {
	Verdict  string        `json:"verdict"` // allow or deny
	Rule     *string       `json:"rule"`    // such as "ingress[0]", with its name if it has one
	Policy   *string       `json:"policy"`  // such as "NetworkPolicy shop/allow-front"
	Reason   string        `json:"reason,omitempty"`
	Pod      string        `json:"pod,omitempty"`  // that is judged; empty if that end is no pod
	Node     string        `json:"node,omitempty"` // of the pod: it judges
	Always   string        `json:"always,omitempty"`
	Policies []PolicyAsked `json:"policies,omitempty"` // that select the pod, in the order in which they are asked
}

// PolicyAsked is what one policy said.
type PolicyAsked struct {
	Policy  string `json:"policy"`
	Verdict string `json:"verdict"` // allow, deny, pass, none, closed or unasked
	Text    string `json:"text"`
	Nearest bool   `json:"nearest,omitempty"` // of those that might have allowed it, its rule lacked least
}

// Cause is an object that made the rows that decided.
type Cause struct {
	Kind            string `json:"kind"`
	Namespace       string `json:"namespace,omitempty"`
	Name            string `json:"name"`
	UID             string `json:"uid,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
	Manager         string `json:"manager,omitempty"`
}

// The paths that a connection may take. A socket path is decided at connect or send, before there is a packet.
const (
	viaSocket = "socket"
	viaPacket = "packet"
	viaNone   = "none" // no hook of ours sees it
)

// withDefaults fills what q leaves open from d. The node that d names is for sources that are on none: a batch has
// sources of many nodes.
func (q Question) withDefaults(d Question) Question {
	q.orNode = d.Node
	for _, field := range []struct{ own, or *string }{
		{&q.From, &d.From}, {&q.To, &d.To}, {&q.Proto, &d.Proto}, {&q.Via, &d.Via},
	} {
		if *field.own == "" {
			*field.own = *field.or
		}
	}
	return q
}

func (q Question) check() error {
	switch {
	case q.From == "":
		return errors.New("from is missing: say who connects, as NAMESPACE/POD or an address")
	case q.To == "":
		return errors.New("to is missing: say where to, as NAMESPACE/SERVICE:PORT, NAMESPACE/POD:PORT or ADDRESS:PORT")
	case q.Via != "" && q.Via != viaSocket && q.Via != viaPacket:
		return errors.New("via " + quoted(q.Via) + ": want socket or packet, or nothing for what the client would use")
	}
	return nil
}
