// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/deltaplane/deltaplane/internal/model"
)

// delta is how a node's rows change in one stage: what each was at its beginning, and what it is now.
type delta struct {
	node *node
	// fresh is where rows go of a node that had none; nil else.
	fresh *model.Tables

	endpoints map[netip.Addr]pair[model.Endpoint]
	peers     map[netip.Addr]pair[model.IdentityID]
	blocks    map[netip.Prefix]pair[model.IdentityID]
	verdicts  map[model.VerdictKey]pair[model.Verdict]
	ruleSets  map[model.RuleSetID]pair[model.RuleSet]
	rules     map[model.RuleID]pair[model.Rule]
	ports     map[model.PortsID]pair[*portTable]
}

// pair is a row before and after. The zero value is no row.
type pair[R comparable] struct{ old, now R }

// absent is the identity of a prefix without a row.
const absent = ^model.IdentityID(0)

// delta returns what changes of a node.
func (e *Engine) delta(n *node) *delta {
	if n.delta == nil {
		n.delta = &delta{node: n}
		e.dirty = append(e.dirty, n)
	}
	return n.delta
}

// note keeps the row that was there first, and the newest.
func note[K, R comparable](rows *map[K]pair[R], key K, old, now R) {
	if *rows == nil {
		*rows = map[K]pair[R]{}
	}
	if p, is := (*rows)[key]; is {
		old = p.old
	}
	(*rows)[key] = pair[R]{old, now}
}

func (d *delta) endpoint(addr netip.Addr, old, now model.Endpoint) {
	if d.fresh != nil {
		d.fresh.Endpoints[addr] = now
		return
	}
	note(&d.endpoints, addr, old, now)
}

func (d *delta) peer(addr netip.Addr, old, now model.IdentityID) {
	if d.fresh != nil {
		d.fresh.Peers.Put(model.Peer{Addr: addr, Identity: now})
		return
	}
	note(&d.peers, addr, old, now)
}

func (d *delta) block(prefix netip.Prefix, old, now model.IdentityID) {
	if d.fresh != nil {
		d.fresh.Blocks[prefix] = model.Block{Prefix: prefix, Identity: now}
		return
	}
	note(&d.blocks, prefix, old, now)
}

func (d *delta) verdict(old, now model.Verdict) {
	if d.fresh != nil {
		d.fresh.Verdicts[now.VerdictKey] = now
		return
	}
	key := now.VerdictKey
	if now == (model.Verdict{}) {
		key = old.VerdictKey
	}
	note(&d.verdicts, key, old, now)
}

func (d *delta) ruleSet(r *ruleSet, was, is bool) {
	var old, now model.RuleSet
	if was {
		old = r.row
	}
	if is {
		now = r.row
	}
	note(&d.ruleSets, r.id, old, now)
}

func (d *delta) addRule(row model.Rule) {
	h := d.node.rules[row.ID]
	if h == nil {
		h = &held[model.Rule]{}
		d.node.rules[row.ID] = h
	}
	h.uses++
	if h.row != row {
		note(&d.rules, row.ID, h.row, row)
		h.row = row
	}
}

func (d *delta) dropRule(row model.Rule) {
	h := d.node.rules[row.ID]
	if h.uses--; h.uses == 0 {
		note(&d.rules, row.ID, h.row, model.Rule{})
		delete(d.node.rules, row.ID)
	}
}

func (d *delta) addPorts(t *portTable) {
	if t == nil {
		return
	}
	h := d.node.ports[t.ports]
	if h == nil {
		h = &held[*portTable]{row: t}
		d.node.ports[t.ports] = h
		note(&d.ports, t.ports, nil, t)
	}
	h.uses++
}

func (d *delta) dropPorts(t *portTable) {
	if t == nil {
		return
	}
	h := d.node.ports[t.ports]
	if h.uses--; h.uses == 0 {
		note(&d.ports, t.ports, h.row, nil)
		delete(d.node.ports, t.ports)
	}
}

// setVerdict says what a node's rule set says of an identity; nil is no row.
func (e *Engine) setVerdict(n *node, r *ruleSet, k model.IdentityID, old, now *outcome) {
	if old == now {
		return
	}
	d := e.delta(n)
	was, is := old.row(r, k), now.row(r, k)
	d.verdict(was, is)
	if now != nil {
		d.addPorts(now.ports)
		e.crowd(r, boolean(now.overfull))
	}
	if old != nil {
		d.dropPorts(old.ports)
		e.crowd(r, -boolean(old.overfull))
	}
}

func (o *outcome) row(r *ruleSet, k model.IdentityID) (row model.Verdict) {
	if o == nil {
		return row
	}
	return model.Verdict{
		VerdictKey: model.VerdictKey{RuleSet: r.id, Identity: k}, Ports: o.ports.id(), Action: o.action, Rule: o.rule,
	}
}

// finish returns the change.
func (d *delta) finish() *model.Change {
	c := &model.Change{}
	c.Put.Endpoints, c.Remove.Endpoints = split(d.endpoints)
	c.Put.Verdicts, c.Remove.Verdicts = split(d.verdicts)
	c.Put.RuleSets, c.Remove.RuleSets = split(d.ruleSets)
	c.Put.Rules, c.Remove.Rules = split(d.rules)
	for addr, p := range d.peers {
		switch p.now {
		case p.old:
		case 0:
			c.Remove.Peers = append(c.Remove.Peers, addr)
		default:
			c.Put.Peers = append(c.Put.Peers, model.Peer{Addr: addr, Identity: p.now})
		}
	}
	for prefix, p := range d.blocks {
		switch p.now {
		case p.old:
		case absent:
			c.Remove.Blocks = append(c.Remove.Blocks, prefix)
		default:
			c.Put.Blocks = append(c.Put.Blocks, model.Block{Prefix: prefix, Identity: p.now})
		}
	}
	for _, p := range d.ports {
		switch {
		case p.old.id() == p.now.id():
		case p.now == nil:
			for _, row := range p.old.rows {
				c.Remove.PortVerdicts = append(c.Remove.PortVerdicts, row.PortKey)
			}
		default:
			c.Put.PortVerdicts = append(c.Put.PortVerdicts, p.now.rows...)
		}
	}
	return c
}

// whole returns the rows of a node that had none.
func (d *delta) whole() *model.Tables {
	for id, p := range d.ruleSets {
		d.fresh.RuleSets[id] = p.now
	}
	for id, p := range d.rules {
		d.fresh.Rules[id] = p.now
	}
	for _, p := range d.ports {
		for _, row := range p.now.rows {
			d.fresh.PortVerdicts[row.PortKey] = row
		}
	}
	return d.fresh
}

// split sorts out the rows to put and the keys to remove; rows that are the same again are neither.
func split[K, R comparable](rows map[K]pair[R]) (put []R, remove []K) {
	var none R
	for key, p := range rows {
		switch p.now {
		case p.old:
		case none:
			remove = append(remove, key)
		default:
			put = append(put, p.now)
		}
	}
	return put, remove
}
