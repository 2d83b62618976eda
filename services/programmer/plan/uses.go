// SPDX-License-Identifier: Apache-2.0

package plan

import "github.com/deltaplane/deltaplane/internal/model"

// uses count what of policy leads to what, so that a change is checked, and put in order, by what it touches alone.
type uses struct {
	judged   map[model.RuleSetID]int32  // endpoints that a rule set judges, once a direction
	decided  map[model.RuleSetID]int32  // verdicts of a rule set
	excepted map[model.PortsID]int32    // verdicts that have a table of ports
	ports    map[model.PortsID]int32    // rows of a table of ports
	held     map[model.IdentityID]int32 // peers and blocks of an identity
	lengths  [2][129]int32              // blocks by family and length
}

func newUses() uses {
	return uses{
		judged:   map[model.RuleSetID]int32{},
		decided:  map[model.RuleSetID]int32{},
		excepted: map[model.PortsID]int32{},
		ports:    map[model.PortsID]int32{},
		held:     map[model.IdentityID]int32{},
	}
}

func (u *uses) endpoint(e model.Endpoint, n int32) {
	for _, id := range []model.RuleSetID{e.Ingress, e.Egress} {
		if id != 0 {
			add(u.judged, id, n)
		}
	}
}

func (u *uses) verdict(v model.Verdict, n int32) {
	add(u.decided, v.RuleSet, n)
	if v.Ports != 0 {
		add(u.excepted, v.Ports, n)
	}
}

// rows counts all rows of a layer that were read.
func (u *uses) rows(t *model.Tables) {
	for _, e := range t.Endpoints {
		u.endpoint(e, 1)
	}
	for _, v := range t.Verdicts {
		u.verdict(v, 1)
	}
	for _, v := range t.PortVerdicts {
		add(u.ports, v.Ports, 1)
	}
	for _, p := range t.Peers.All() {
		add(u.held, p.Identity, 1)
	}
	for _, b := range t.Blocks {
		u.block(b, 1)
	}
}

func (u *uses) block(b model.Block, n int32) {
	add(u.held, b.Identity, n)
	u.lengths[familyOf(b.Prefix)][b.Prefix.Bits()] += n
}

// countPolicy moves the counts to where they are after a change, or back if sign is -1.
func (t *transaction) countPolicy(sign int32) {
	u := &t.uses
	for _, kind := range kinds {
		put := &t.changes[kind].Put
		for _, e := range put.Endpoints {
			u.endpoint(e, sign)
		}
		for _, v := range put.Verdicts {
			u.verdict(v, sign)
		}
		for _, v := range put.PortVerdicts {
			add(u.ports, v.Ports, sign)
		}
		for _, p := range put.Peers {
			add(u.held, p.Identity, sign)
		}
		for _, b := range put.Blocks {
			u.block(b, sign)
		}
	}
	for _, w := range t.endpointsBefore {
		u.endpoint(w.row, -sign)
	}
	for _, w := range t.verdictsBefore {
		u.verdict(w.row, -sign)
	}
	for _, w := range t.portVerdictsBefore {
		add(u.ports, w.row.Ports, -sign)
	}
	for _, w := range t.peersBefore {
		add(u.held, w.row.Identity, -sign)
	}
	for _, w := range t.blocksBefore {
		u.block(w.row, -sign)
	}
}

// notePolicy notes what led to what before the change, where that may be otherwise after it, and which verdicts are new.
func (t *transaction) notePolicy() {
	t.anyJudged = len(t.uses.judged) > 0
	judges := func(e model.Endpoint) {
		for _, id := range []model.RuleSetID{e.Ingress, e.Egress} {
			t.judgedBefore[id] = t.uses.judged[id]
		}
	}
	holds := func(id model.IdentityID) { t.heldBefore[id] = t.uses.held[id] }
	for _, kind := range kinds {
		put := &t.changes[kind].Put
		for _, e := range put.Endpoints {
			judges(e)
		}
		for _, p := range put.Peers {
			holds(p.Identity)
		}
		for _, b := range put.Blocks {
			holds(b.Identity)
		}
		for _, v := range put.Verdicts {
			if _, changed := t.verdictsBefore[v.VerdictKey]; !changed {
				t.verdictsNew[v.VerdictKey] = true
			}
		}
	}
	for _, w := range t.endpointsBefore {
		judges(w.row)
	}
	for _, w := range t.peersBefore {
		holds(w.row.Identity)
	}
	for _, w := range t.blocksBefore {
		holds(w.row.Identity)
	}
}
