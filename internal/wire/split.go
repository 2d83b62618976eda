// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/schemas"
)

// The most that one row or key takes in a message, in bytes: tags, lengths and the widest numbers (protobuf encoding
// guide). Names come on top.
const (
	sizeFrontendKey = 2 + 18 + 4 + 3 + 2
	sizeFrontend    = 2 + sizeFrontendKey + 6 + 2 + 6 + 2
	sizeSet         = 3 + 6 + 3 + 3 + 4 + 3 + 2 + 2 + 9 + 6 + 6 + 4 + 2
	sizeBackend     = 2 + 6 + 6 + 18 + 4 + 2 + 9 + 6 + 5 + 2
	sizeID          = 5
	sizeGroup       = 2 + 4 + 6 + 5 // members of one set or peers of one identity, without them
	sizeAddress     = 19
	sizeEndpoint    = 3 + sizeAddress + 3 + 5 + 9 + 9
	sizeViewKey     = 2 + 6 + 2 + 9
	sizeView        = 2 + sizeViewKey + 6
	sizePrefix      = 3 + 18 + 3
	sizeSourceRange = 2 + 6 + sizePrefix
	sizeNetwork     = 2 + sizePrefix + 2
	sizeHealthCheck = 3 + 4 + 3 + 3
	sizeNode        = 3 + 5 + 6 + 18
	sizeSelf        = 2 + 2 + 2 + 2
	sizePort        = 3
	sizeNodeID      = 4
	sizeHash        = 8
	sizeRuleSet     = 3 + 9 + 2 + 3
	sizeRule        = 3 + 9 + 2 + 3 + 3 + 2 + 4 + 2 + 2
	sizeVerdictKey  = 2 + 9 + 6
	sizeVerdict     = 2 + sizeVerdictKey + 9 + 2 + 9
	sizePortKey     = 2 + 9 + 3 + 4 + 2
	sizePortVerdict = 2 + sizePortKey + 2 + 9
	sizeBlock       = 3 + sizePrefix + 6
	// sizeLists is the tags and lengths of put, remove and the six packed lists of that.
	sizeLists = 54
)

// splitter fills changes one after the other, each with at most room bytes of rows.
type splitter struct {
	room  int
	used  int
	group uint32 // the set or identity of what was added last
	parts []*model.Change
}

// at returns the change that the next row goes to, which takes size bytes.
func (s *splitter) at(size int) *model.Change {
	if len(s.parts) == 0 || s.used+size > s.room {
		s.parts = append(s.parts, &model.Change{})
		s.used, s.group = 0, 0
	}
	s.used += size
	return s.parts[len(s.parts)-1]
}

// in returns the change that the next row of a group goes to, which takes size bytes; rows of one group come together.
func (s *splitter) in(group uint32, size int) *model.Change {
	if group == s.group && s.used+size <= s.room {
		return s.at(size)
	}
	part := s.at(sizeGroup + size)
	s.group = group
	return part
}

func (s *splitter) member(m model.Member) *model.Change { return s.in(uint32(m.Set), sizeID) }

// split cuts a change into changes of at most room bytes as messages; at least one. A row is never cut: room must
// hold the largest.
func split(c *model.Change, room int) []*model.Change {
	s := &splitter{room: room - sizeLists}
	s.at(0)
	s.removed(&c.Remove)
	s.put(&c.Put)
	return s.parts
}

func (s *splitter) removed(k *model.Keys) {
	add(k.Frontends, func(k model.FrontendKey) *[]model.FrontendKey { return &s.at(sizeFrontendKey).Remove.Frontends })
	add(bySet(k.Members), func(m model.Member) *[]model.Member { return &s.member(m).Remove.Members })
	s.group = 0
	add(k.Sets, func(model.SetID) *[]model.SetID { return &s.at(sizeID).Remove.Sets })
	add(k.Backends, func(model.BackendID) *[]model.BackendID { return &s.at(sizeID).Remove.Backends })
	add(k.Endpoints, func(netip.Addr) *[]netip.Addr { return &s.at(sizeAddress).Remove.Endpoints })
	add(k.Views, func(model.ViewKey) *[]model.ViewKey { return &s.at(sizeViewKey).Remove.Views })
	add(k.SourceRanges, func(model.SourceRange) *[]model.SourceRange { return &s.at(sizeSourceRange).Remove.SourceRanges })
	add(k.Networks, func(netip.Prefix) *[]netip.Prefix { return &s.at(sizePrefix).Remove.Networks })
	add(k.HealthChecks, func(uint16) *[]uint16 { return &s.at(sizePort).Remove.HealthChecks })
	add(k.Nodes, func(model.NodeID) *[]model.NodeID { return &s.at(sizeNodeID).Remove.Nodes })
	add(k.Selves, func(model.SelfKey) *[]model.SelfKey { return &s.at(sizeSelf).Remove.Selves })
	add(k.RuleSets, func(model.RuleSetID) *[]model.RuleSetID { return &s.at(sizeHash).Remove.RuleSets })
	add(k.Rules, func(model.RuleID) *[]model.RuleID { return &s.at(sizeHash).Remove.Rules })
	add(k.Verdicts, func(model.VerdictKey) *[]model.VerdictKey { return &s.at(sizeVerdictKey).Remove.Verdicts })
	add(k.PortVerdicts, func(model.PortKey) *[]model.PortKey { return &s.at(sizePortKey).Remove.PortVerdicts })
	add(k.Peers, func(netip.Addr) *[]netip.Addr { return &s.at(sizeAddress).Remove.Peers })
	add(k.Blocks, func(netip.Prefix) *[]netip.Prefix { return &s.at(sizePrefix).Remove.Blocks })
}

func (s *splitter) put(r *model.Rows) {
	add(r.Backends, func(model.Backend) *[]model.Backend { return &s.at(sizeBackend).Put.Backends })
	add(r.Sets, func(b model.BackendSet) *[]model.BackendSet {
		return &s.at(sizeSet + len(b.Service.Namespace) + len(b.Service.Name)).Put.Sets
	})
	add(bySet(r.Members), func(m model.Member) *[]model.Member { return &s.member(m).Put.Members })
	s.group = 0
	add(r.Frontends, func(model.Frontend) *[]model.Frontend { return &s.at(sizeFrontend).Put.Frontends })
	add(r.Endpoints, func(e model.Endpoint) *[]model.Endpoint { return &s.at(sizeEndpoint + len(e.Pod)).Put.Endpoints })
	add(r.Views, func(model.View) *[]model.View { return &s.at(sizeView).Put.Views })
	add(r.SourceRanges, func(model.SourceRange) *[]model.SourceRange { return &s.at(sizeSourceRange).Put.SourceRanges })
	add(r.Networks, func(model.Network) *[]model.Network { return &s.at(sizeNetwork).Put.Networks })
	add(r.HealthChecks, func(h model.HealthCheck) *[]model.HealthCheck {
		return &s.at(sizeHealthCheck + len(h.Namespace) + len(h.Name)).Put.HealthChecks
	})
	add(r.Nodes, func(model.Node) *[]model.Node { return &s.at(sizeNode).Put.Nodes })
	add(r.Selves, func(o model.Self) *[]model.Self { return &s.at(sizeSelf + len(o.Zone)).Put.Selves })
	s.putPolicy(r)
}

func (s *splitter) putPolicy(r *model.Rows) {
	add(r.RuleSets, func(u model.RuleSet) *[]model.RuleSet { return &s.at(sizeRuleSet + len(u.Policies)).Put.RuleSets })
	add(r.Rules, func(l model.Rule) *[]model.Rule {
		return &s.at(sizeRule + len(l.Policy.Namespace) + len(l.Policy.Name) + len(l.Name)).Put.Rules
	})
	add(r.Verdicts, func(model.Verdict) *[]model.Verdict { return &s.at(sizeVerdict).Put.Verdicts })
	add(r.PortVerdicts, func(model.PortVerdict) *[]model.PortVerdict { return &s.at(sizePortVerdict).Put.PortVerdicts })
	add(byIdentity(r.Peers), func(p model.Peer) *[]model.Peer { return &s.in(uint32(p.Identity), sizeAddress).Put.Peers })
	s.group = 0
	add(r.Blocks, func(model.Block) *[]model.Block { return &s.at(sizeBlock).Put.Blocks })
}

// add appends each row to the list that place gives for it.
func add[T any](rows []T, place func(T) *[]T) {
	for _, r := range rows {
		to := place(r)
		*to = append(*to, r)
	}
}

func bySet(members []model.Member) []model.Member {
	return sorted(members, func(a, b model.Member) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Backend, b.Backend))
	})
}

func byIdentity(peers []model.Peer) []model.Peer {
	return sorted(peers, func(a, b model.Peer) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), a.Addr.Compare(b.Addr))
	})
}

// sorted returns rows in order; they themselves stay as they are.
func sorted[T any](rows []T, compare func(a, b T) int) []T {
	if slices.IsSortedFunc(rows, compare) {
		return rows
	}
	return slices.SortedFunc(slices.Values(rows), compare)
}

// smallest is the least room for rows: the largest row and what lists need.
const smallest = sizeLists + sizeRule + 2*MaxName + MaxRuleName

// SplitRows returns rows as messages of at most maxBytes each; at least one, which may be empty.
func SplitRows(rows model.Rows, maxBytes int) ([]*schemas.Rows, error) {
	if maxBytes < smallest {
		return nil, fmt.Errorf("split rows into messages of %d bytes: at least %d are needed", maxBytes, smallest)
	}
	return list(split(&model.Change{Put: rows}, maxBytes), func(c *model.Change) *schemas.Rows {
		return RowsToProto(c.Put)
	}), nil
}
