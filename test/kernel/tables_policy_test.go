// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// rules are a world's policies, as rows: few rule sets, identities, tables of ports and rules, so that what one says is
// often another's exception. They are changed row by row, in every way that rows may, not as an engine would.
type rules struct {
	begun    bool // there were policies
	policed  bool
	pods     map[netip.Addr]judged
	verdicts map[model.VerdictKey]model.Verdict
	ports    map[model.PortKey]model.PortVerdict
	peers    map[netip.Addr]model.IdentityID
	blocks   map[netip.Prefix]model.IdentityID
}

// judged is what the rows say of a pod.
type judged struct {
	missing         bool // the pod isn't known yet
	incarnation     uint32
	ingress, egress model.RuleSetID
}

// What all worlds' policies are of.
var (
	ruleSets    = []model.RuleSetID{0, 0, 11, 12, 13, 14} // 14 has no rows: it isn't in force
	portTables  = []model.PortsID{0, 0, 21, 22}
	ruleIDs     = []model.RuleID{0, 31, 32, 33, 34}
	identities  = []model.IdentityID{0, 0, 1, 2, 3}
	actions     = []model.Action{model.ActionAllow, model.ActionAllow, model.ActionAllow, model.ActionAllow, model.ActionDeny, model.ActionIsolate, model.ActionIsolate, model.ActionClosed}
	judgedPorts = []uint16{80, 8080, 53, 40000, 40001, 30080}
	lengths     = []uint8{16, 16, 15, 12, 8, 1, 0}
	blockRanges = parsePrefixes(
		"0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.2/31", "10.244.2.4/32", "172.20.0.0/15", "192.0.2.0/24", "198.51.100.7/32", "10.96.0.0/16",
		"::/0", "fd00::/16", "fd00:1::/64", "fd00:2::4/128", "fd00:20::/64", "2001:db8::/32", "fe80::/10", "ff00::/8",
	)
)

func parsePrefixes(texts ...string) (all []netip.Prefix) {
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func newRules() *rules {
	return &rules{
		pods: map[netip.Addr]judged{}, verdicts: map[model.VerdictKey]model.Verdict{}, ports: map[model.PortKey]model.PortVerdict{},
		peers: map[netip.Addr]model.IdentityID{}, blocks: map[netip.Prefix]model.IdentityID{},
	}
}

// changePolicy changes a row or several; at first many.
func (w *world) changePolicy() {
	r, times := w.rules, 1
	if !r.begun {
		r.begun, r.policed, times = true, true, 30
		for _, a := range w.here {
			w.selectPod(a)
		}
	}
	for range times {
		w.changeRule()
	}
	if times > 1 {
		w.changed = "policies come"
	}
	w.compile()
}

func (w *world) changeRule() {
	r := w.rules
	switch w.choose(12) {
	case 0:
		a := one(w, w.here)
		w.selectPod(a)
		w.changed = fmt.Sprintf("pod %s is judged by others: %+v", a, r.pods[a])
	case 1:
		w.changePod(one(w, w.here))
	case 2, 3, 4:
		w.changeVerdict()
	case 5, 6, 7:
		w.changePort()
	case 8, 9:
		w.changePeer()
	case 10:
		p := one(w, blockRanges)
		r.blocks[p] = one(w, identities)
		w.changed = fmt.Sprintf("block %s is now %d", p, r.blocks[p])
		if w.choose(3) == 0 {
			delete(r.blocks, p)
			w.changed = fmt.Sprintf("block %s goes", p)
		}
	default:
		r.policed = !r.policed || w.choose(4) != 0
		w.changed = fmt.Sprintf("policies are there: %v", r.policed)
	}
}

func (w *world) selectPod(a netip.Addr) {
	pod := w.rules.pods[a]
	pod.ingress, pod.egress = one(w, ruleSets), one(w, ruleSets)
	w.rules.pods[a] = pod
}

// changePod lets another pod have the address, or nobody know whose it is.
func (w *world) changePod(a netip.Addr) {
	pod := w.rules.pods[a]
	if pod.missing = !pod.missing && w.choose(3) == 0; !pod.missing {
		pod.incarnation = uint32(w.choose(3))
	}
	w.rules.pods[a] = pod
	w.changed = fmt.Sprintf("pod %s is now %+v", a, pod)
}

func (w *world) changeVerdict() {
	key := model.VerdictKey{RuleSet: one(w, ruleSets[2:5]), Identity: one(w, identities)}
	if w.choose(5) == 0 {
		delete(w.rules.verdicts, key)
		w.changed = fmt.Sprintf("the verdict of %d on %d goes", key.RuleSet, key.Identity)
		return
	}
	v := model.Verdict{VerdictKey: key, Ports: one(w, portTables), Action: one(w, actions), Rule: one(w, ruleIDs)}
	w.rules.verdicts[key] = v
	w.changed = fmt.Sprintf("the verdict of %d on %d is %s", key.RuleSet, key.Identity, v.Action)
}

func (w *world) changePort() {
	bits := one(w, lengths)
	key := model.PortKey{Ports: one(w, portTables[2:]), Protocol: one(w, protocols), Port: one(w, judgedPorts) &^ (0xffff >> bits), Bits: bits}
	if w.choose(4) == 0 {
		delete(w.rules.ports, key)
		w.changed = fmt.Sprintf("the exception %+v goes", key)
		return
	}
	v := model.PortVerdict{PortKey: key, Action: one(w, actions), Rule: one(w, ruleIDs)}
	w.rules.ports[key] = v
	w.changed = fmt.Sprintf("the exception %+v", v)
}

func (w *world) changePeer() {
	a := one(w, slices.Concat(pods, elsewhere, nodes, outsiders))
	if id := one(w, identities); id != 0 {
		w.rules.peers[a] = id
		w.changed = fmt.Sprintf("peer %s is now %d", a, id)
		return
	}
	delete(w.rules.peers, a)
	w.changed = fmt.Sprintf("peer %s goes", a)
}

// compile makes the node's rows.
func (r *rules) compile(t *model.Tables) {
	self := t.Selves[model.SelfKey{}]
	self.Policed = r.policed
	t.Selves[model.SelfKey{}] = self
	for addr, row := range t.Endpoints {
		pod := r.pods[addr]
		row.Incarnation, row.Ingress, row.Egress = pod.incarnation, pod.ingress, pod.egress
		if t.Endpoints[addr] = row; pod.missing {
			delete(t.Endpoints, addr)
		}
	}
	for _, id := range ruleSets[2:] {
		t.RuleSets[id] = model.RuleSet{ID: id, Direction: model.Ingress, Policies: "NetworkPolicy test/policy"}
	}
	maps.Copy(t.Verdicts, r.verdicts)
	maps.Copy(t.PortVerdicts, r.ports)
	for _, id := range portTables[2:] { // none is without rows, as the programmer would have none
		key := model.PortKey{Ports: id, Protocol: 254}
		t.PortVerdicts[key] = model.PortVerdict{PortKey: key, Action: model.ActionDeny}
	}
	for addr, id := range r.peers {
		t.Peers.Put(model.Peer{Addr: addr, Identity: id})
	}
	for prefix, id := range r.blocks {
		t.Blocks[prefix] = model.Block{Prefix: prefix, Identity: id}
	}
	// IPv4 addresses lie within ::/0 as they are written in the kernel: the engine keeps them out of it.
	everyone := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if _, has := t.Blocks[everyone]; !has {
		t.Blocks[everyone] = model.Block{Prefix: everyone}
	}
}

// policyLines write the rows for people.
func policyLines(t *model.Tables) (lines []string) {
	for _, e := range t.Endpoints {
		lines = append(lines, fmt.Sprintf("  pod %s, incarnation %d: ingress %d, egress %d", e.Addr, e.Incarnation, e.Ingress, e.Egress))
	}
	for _, v := range t.Verdicts {
		lines = append(lines, fmt.Sprintf("  rule set %d on %d: %s by rule %d, exceptions %d", v.RuleSet, v.Identity, v.Action, v.Rule, v.Ports))
	}
	for _, v := range t.PortVerdicts {
		lines = append(lines, fmt.Sprintf("  exceptions %d: %s %d, %d bits: %s by rule %d", v.Ports, v.Protocol, v.Port, v.Bits, v.Action, v.Rule))
	}
	for _, p := range t.Peers.All() {
		lines = append(lines, fmt.Sprintf("  peer %s: %d", p.Addr, p.Identity))
	}
	for _, b := range t.Blocks {
		lines = append(lines, fmt.Sprintf("  block %s: %d", b.Prefix, b.Identity))
	}
	return lines
}
