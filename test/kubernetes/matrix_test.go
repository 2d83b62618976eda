// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/deltaplane/deltaplane/internal/explain"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/refmodel/policy"
)

// strangers are addresses outside the cluster.
var strangers = []netip.Addr{
	netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8::7"),
}

// portsAsked are in policies, or beside those.
var portsAsked = []uint16{53, 80, 81, 443, 8080, 65535}

var reasonsOf = map[model.Action]model.DropReason{
	model.ActionAllow: model.ReasonNone, model.ActionDeny: model.ReasonDenied,
	model.ActionIsolate: model.ReasonIsolated, model.ActionClosed: model.ReasonPolicyClosed,
}

// Matrix is all connections there may be, by what the policies say of them and by what the rows in the kernels say.
type Matrix struct {
	policies *policy.Cluster
	nodes    map[string]*refmodel.Node
	rows     map[string]*model.Tables
	ends     []netip.Addr
	names    map[netip.Addr]string // of pods that have an address of their own, where a kernel judges them
}

// matrixOf reads a snapshot.
func matrixOf(s *Snapshot) *Matrix {
	m := &Matrix{
		policies: policy.New(s.facts, nil), nodes: map[string]*refmodel.Node{}, rows: s.rows,
		ends: slices.Clone(strangers), names: map[netip.Addr]string{},
	}
	for _, fact := range s.facts {
		m.ends = append(m.ends, rawAddresses(fact.GetPod().GetAddresses())...)
		addrs := rawAddresses(fact.GetNode().GetAddresses())
		m.ends = append(m.ends, addrs...)
		rows := s.rows[fact.GetObject().GetName()]
		if fact.GetNode() == nil || rows == nil {
			continue
		}
		around := refmodel.Surroundings{Locals: map[netip.Addr]refmodel.LocalFlags{}}
		for _, a := range addrs {
			around.Locals[a] = refmodel.LocalNodePort
		}
		m.nodes[fact.GetObject().GetName()] = refmodel.New(refmodel.NewLayer(rows)).In(around)
	}
	for node, rows := range s.rows {
		for _, e := range rows.Endpoints {
			if r := m.policies.Ingress(policy.Connection{To: e.Addr}); r != nil && r.Node == node {
				m.names[e.Addr] = e.Pod
			}
		}
	}
	slices.SortFunc(m.ends, netip.Addr.Compare)
	m.ends = slices.Compact(m.ends)
	return m
}

func rawAddresses(raw [][]byte) (all []netip.Addr) {
	for _, b := range raw {
		if a, ok := netip.AddrFromSlice(b); ok {
			all = append(all, a)
		}
	}
	return all
}

// connections calls f with each connection that is asked about.
func (m *Matrix) connections(f func(policy.Connection)) {
	for _, from := range m.ends {
		for _, to := range m.ends {
			if from.Is4() != to.Is4() {
				continue
			}
			for _, protocol := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
				for _, port := range portsAsked {
					f(policy.Connection{From: from, To: to, Protocol: protocol, Port: port})
				}
			}
			f(policy.Connection{From: from, To: to, Protocol: icmp})
		}
	}
}

const icmp model.Protocol = 1

// agrees checks that each pod's kernel decides as the policies say, by the same rule.
func (m *Matrix) agrees(t *testing.T) {
	t.Helper()
	var asked, denied, wrong int
	m.connections(func(c policy.Connection) {
		said := m.policies.Judge(c)
		for _, r := range []*policy.Ruling{said.Egress, said.Ingress} {
			if r == nil || m.nodes[r.Node] == nil {
				continue
			}
			asked++
			if !r.Allowed() {
				denied++
			}
			if got := m.held(r, c); got != "" && wrong < 20 {
				wrong++
				t.Errorf("%s port %d from %s to %s: %s at pod %s on %s by %v, but its kernel's rows say %s",
					c.Protocol, c.Port, c.From, c.To, r.Action, r.Pod, r.Node, r.Rule, got)
			}
		}
	})
	t.Logf("%d judgements of %d ends agree, %d of them denials", asked-wrong, len(m.ends), denied)
}

// held is what the rows of a pod's node say, empty if that is what the policies say.
func (m *Matrix) held(r *policy.Ruling, c policy.Connection) string {
	got := m.nodes[r.Node].Judge(r.Direction, endOf(r.Direction, c))
	rule, has := m.rows[r.Node].Rules[got.Rule]
	if got.Reason == reasonsOf[r.Action] && has == (r.Rule != nil) && (!has || sameRule(rule, *r.Rule)) {
		return ""
	}
	return fmt.Sprintf("%s by %v", got.Reason, rule)
}

// endOf is a connection as the pod sees it that is judged in a direction.
func endOf(d model.Direction, c policy.Connection) refmodel.End {
	e := refmodel.End{Protocol: c.Protocol, Pod: netip.AddrPortFrom(c.From, 40000), Peer: netip.AddrPortFrom(c.To, c.Port)}
	if d == model.Ingress {
		e.Pod, e.Peer = e.Peer, e.Pod
	}
	return e
}

// sameRule compares rules but for their numbers, which the oracle has none of.
func sameRule(held, want model.Rule) bool {
	want.ID = held.ID
	return held == want
}

// runs sends packets of some connections through the programs, with the rows that the kernels hold.
func (m *Matrix) runs(t *testing.T, s *Snapshot, config explain.Config, random *rand.Rand, most int) {
	t.Helper()
	world := explain.FromNodes(s.facts, func(node string) (*model.Rows, error) {
		rows := s.rows[node].Rows()
		return &rows, nil
	}, config)
	kernel, err := explain.NewKernel(world)
	fatal(t, err)
	defer kernel.Close()
	var all []policy.Connection
	m.connections(func(c policy.Connection) {
		if c.Protocol != icmp && m.names[c.From] != "" && m.names[c.To] != "" && c.From != c.To {
			all = append(all, c)
		}
	})
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:min(most, len(all))]
	for _, c := range all {
		want, said := "drop", m.policies.Judge(c)
		if said.Allowed() {
			want = "forward"
		}
		question := explain.Question{
			From: c.From.String(), To: netip.AddrPortFrom(c.To, c.Port).String(), Proto: strings.ToLower(c.Protocol.String()),
		}
		answer, err := world.Ask(kernel, question)
		if err != nil || answer.Verdict != want {
			t.Errorf("%+v: want %s, the programs say %+v, %v", question, want, answer, err)
		}
	}
	t.Logf("%d connections were asked of the programs", len(all))
}
