// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"github.com/deltaplane/deltaplane/internal/model"
)

// passage is a stage on its way into phases.
type passage struct {
	round
	peers  batches         // addresses that come to be peers, or are others'
	blocks map[int]batches // prefixes, by their length among 128 bits: the longest first
	unfold map[int]batches // prefixes that go: the shortest first
	forget batches         // addresses that are no peers any more
	pods   batches
	last   batches
}

// policyPhases returns the writes of what judges connections, and when to have them judged again.
func (t *transaction) policyPhases(capacities Capacities) ([]Phase, error) {
	var phases []Phase
	if t.judging && !t.judges() {
		phases = append(phases, Phase{Name: "judge", Judge: JudgeNothing})
		t.stale.all = true
	}
	stages := t.stages()
	stages[0].settle = stages[0].settle || t.stale.all
	for i, s := range stages {
		p := &passage{
			round: round{transaction: t, settle: s.settle}, blocks: map[int]batches{}, unfold: map[int]batches{},
		}
		p.write(s)
		if i == 0 {
			p.leftovers()
		}
		more, err := p.phases(s, capacities)
		if err != nil {
			return nil, err
		}
		phases = append(phases, more...)
	}
	return t.judgeAgain(phases), nil
}

// judges says whether connections are judged after the change. Where the node's own row isn't there nobody has said so,
// and what was before stays.
func (t *transaction) judges() bool {
	if !t.told() {
		return t.judging
	}
	return t.policed()
}

// judgeAgain adds that what was judged before be judged again, before what is old is reclaimed.
func (t *transaction) judgeAgain(phases []Phase) []Phase {
	if !t.judges() || !t.otherwise() && t.judging && !t.rejudge {
		return phases
	}
	at := len(phases)
	if at > 0 && phases[at-1].Name == "reclaim" {
		at--
	}
	return slices.Insert(phases, at, Phase{Name: "judge", Judge: JudgeAgain})
}

// otherwise says whether the change may have anything judged otherwise. A pod that comes has no connections yet, but one
// that was there before may have had some.
func (t *transaction) otherwise() bool {
	if len(t.verdictsBefore)+len(t.portVerdictsBefore)+len(t.peersBefore)+len(t.blocksBefore)+len(t.endpointsBefore) > 0 {
		return true
	}
	for _, kind := range kinds {
		put := &t.changes[kind].Put
		if len(put.Verdicts)+len(put.PortVerdicts)+len(put.Peers)+len(put.Blocks)+len(put.Endpoints) > 0 {
			return true
		}
	}
	return false
}

func (p *passage) write(s *stage) {
	for _, of := range s.portVerdicts {
		entry(&p.round, portVerdicts, of, &p.prepare, &p.reclaim)
	}
	for _, of := range s.ruleSets {
		entry(&p.round, ruleSets, of, &p.prepare, &p.reclaim)
	}
	for _, of := range s.rules {
		entry(&p.round, rules, of, &p.prepare, &p.reclaim)
	}
	for _, of := range s.verdicts {
		p.verdict(s, of)
	}
	for _, of := range s.peers {
		entry(&p.round, peers, of, &p.peers, &p.forget)
	}
	for _, of := range s.blocks {
		length := int(bits(of.key))
		put, remove := p.blocks[length], p.unfold[length]
		entry(&p.round, blocks, of, &put, &remove)
		p.blocks[length], p.unfold[length] = put, remove
	}
	for _, of := range s.endpoints {
		entry(&p.round, endpoints, of, &p.pods, &p.pods)
	}
}

func (p *passage) verdict(s *stage, of verdictTurn) {
	if of.before == of.after {
		return
	}
	in := &p.reclaim
	switch s.when(of) {
	case ahead:
		in = &p.prepare
		p.settle = p.settle || p.seen(of.key)
	case first:
		in = &p.turn
		p.settle = p.settle || p.seen(of.key)
	case last:
		in = &p.last
	}
	entry(&p.round, verdicts, of, in, in)
}

// leftovers removes what a person left behind, unless a row takes its key.
func (p *passage) leftovers() {
	for e := range p.foreign {
		if e.in.OfPolicy() && p.Expected(e.in, []byte(e.key)) == nil {
			p.pods.remove(e.in, []byte(e.key))
			p.removed[e.in]++
		}
	}
}

// phases puts a stage's writes in order.
func (p *passage) phases(s *stage, capacities Capacities) ([]Phase, error) {
	all := []Phase{
		{Name: "prepare", Batches: p.prepare.list()},
		{Name: "switch", Batches: p.turn.list()},
		{Name: "address", Batches: p.peers.list()},
	}
	prefixes := p.prefixes()
	comes := slices.ContainsFunc(s.peers, func(of turn[netip.Addr, model.Peer]) bool { return of.before.kind == 0 })
	if len(prefixes) > 0 && p.mayBeJudging() {
		// Who found that an address is no peer looks for its block next.
		prefixes[0].Grace = comes || p.stale.noPeer || p.stale.all
	}
	all = append(all, prefixes...)
	all = append(all,
		Phase{Name: "address", Batches: p.forget.list()},
		Phase{Name: "point", Batches: p.pods.list()},
		Phase{Name: "turn", Batches: p.last.list(), Grace: true},
		Phase{Name: "reclaim", Batches: p.reclaim.list(), Grace: true})
	phases, err := p.fit(capacities, all)
	if err == nil {
		p.remember(s, phases, comes)
	}
	return phases, err
}

// prefixes are the phases of blocks: those that are put by falling length, so that none takes what is excepted from it,
// then those that go by growing length.
func (p *passage) prefixes() (phases []Phase) {
	for length := 128; length >= 0; length-- {
		if b, held := p.blocks[length]; held {
			phases = append(phases, Phase{Name: "address", Batches: b.list()})
		}
	}
	for length := range 129 {
		if b, held := p.unfold[length]; held {
			phases = append(phases, Phase{Name: "address", Batches: b.list()})
		}
	}
	return slices.DeleteFunc(phases, func(ph Phase) bool { return len(ph.Batches) == 0 })
}

// remember notes what programs may have found that the stage changes, unless they have ended.
func (p *passage) remember(s *stage, phases []Phase, comes bool) {
	if len(phases) > 0 && phases[0].Grace {
		p.stale = newStale()
	}
	if len(p.last.list()) > 0 {
		p.stale = newStale()
		return
	}
	if s.moves == nil {
		s.moves = p.movesOf(s)
	}
	p.stale.note(s.moves.left, turnedOf(s), comes && p.mayBeJudging())
}
