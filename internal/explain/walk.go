// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
)

// decided is what a node's rows say at an end, and by which rule of theirs; no action if they don't know the pod.
type decided struct {
	action model.Action
	rule   *model.Rule
}

// walk follows the rows of a pod's node from its endpoint to a verdict, as the programs do: rule set, the peer's identity,
// the port.
func walk(rows *model.Tables, locals map[netip.Addr]refmodel.LocalFlags, e end) decided {
	own, peer := e.source.Addr(), e.target.Addr()
	if e.direction == model.Ingress {
		own, peer = peer, own
	}
	_, isLocal := locals[peer]
	endpoint, known := rows.Endpoints[own]
	set := endpoint.Egress
	if e.direction == model.Ingress {
		set = endpoint.Ingress
	}
	switch {
	case !known:
		return decided{}
	case set == 0, own == peer, e.direction == model.Ingress && isLocal:
		return decided{action: model.ActionAllow}
	}
	verdict, has := rows.Verdicts[model.VerdictKey{RuleSet: set, Identity: identity(rows, peer)}]
	if !has {
		verdict, has = rows.Verdicts[model.VerdictKey{RuleSet: set}]
	}
	if !has {
		return decided{action: model.ActionClosed}
	}
	found := decided{action: verdict.Action}
	id := verdict.Rule
	for bits := uint8(0); bits <= 16 && verdict.Ports != 0; bits++ {
		key := model.PortKey{Ports: verdict.Ports, Protocol: e.protocol, Port: e.target.Port() &^ (1<<(16-bits) - 1), Bits: bits}
		if exception, has := rows.PortVerdicts[key]; has { // the longest prefix is the last that is found
			found.action, id = exception.Action, exception.Rule
		}
	}
	if rule, has := rows.Rules[id]; has && id != 0 {
		found.rule = &rule
	}
	return found
}

// identity is that of an address: its own, or its longest block's, or nobody's.
func identity(rows *model.Tables, address netip.Addr) model.IdentityID {
	if peer, has := rows.Peers[address]; has {
		return peer.Identity
	}
	for bits := address.BitLen(); bits >= 0; bits-- {
		prefix, _ := address.Prefix(bits)
		if block, has := rows.Blocks[prefix]; has {
			return block.Identity
		}
	}
	return 0
}
