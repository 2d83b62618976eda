// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/portrange"
)

// portTable is exceptions by port.
type portTable struct {
	ports model.PortsID
	rows  []model.PortVerdict
}

func (t *portTable) id() model.PortsID {
	if t == nil {
		return 0
	}
	return t.ports
}

// newPortTable names rows by what they are; no rows are no table.
func newPortTable(rows []model.PortVerdict) *portTable {
	if len(rows) == 0 {
		return nil
	}
	var m meaning
	for _, r := range rows {
		m.number(int(r.Protocol))
		m.number(int(r.Port))
		m.number(int(r.Bits))
		m.number(int(r.Action))
		m.number(int(r.Rule >> 32))
		m.number(int(uint32(r.Rule)))
	}
	t := &portTable{ports: model.PortsID(m.id()), rows: rows}
	for i := range t.rows {
		t.rows[i].Ports = t.ports
	}
	return t
}

// appendPorts writes one protocol's intervals as prefixes. What would take the most of them is written as the one of
// all ports; if it is the verdict's own decision, as none.
func appendPorts(
	rows []model.PortVerdict, protocol model.Protocol, b bounds, decided []decision, own decision,
) []model.PortVerdict {
	b, decided = join(b, decided)
	saved := map[decision]int{}
	for i, d := range decided {
		saved[d] += portrange.Count(uint16(b[i]), uint16(b[i+1]-1))
	}
	ground := own
	for _, d := range decided {
		if saved[d]-1 > saved[ground]-boolean(ground != own) {
			ground = d
		}
	}
	put := func(p portrange.Prefix, d decision) {
		rows = append(rows, model.PortVerdict{
			PortKey: model.PortKey{Protocol: protocol, Port: p.Port, Bits: p.Bits}, Action: d.action, Rule: d.rule,
		})
	}
	if ground != own {
		put(portrange.Prefix{}, ground)
	}
	for i, d := range decided {
		if d != ground {
			for _, p := range portrange.Prefixes(uint16(b[i]), uint16(b[i+1]-1)) {
				put(p, d)
			}
		}
	}
	return rows
}

// join makes one of intervals that follow each other and are decided alike.
func join(b bounds, decided []decision) (joined bounds, d []decision) {
	for i := range decided {
		if i == 0 || decided[i] != decided[i-1] {
			joined, d = append(joined, b[i]), append(d, decided[i])
		}
	}
	return append(joined, allPorts), d
}
