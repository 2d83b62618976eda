// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/refmodel/policy"
	"github.com/deltaplane/deltaplane/schemas"
)

// end is where policies judge a connection: at the pod that begins it, or at the one that it is to.
type end struct {
	direction model.Direction
	node      string // the pod's
	source    netip.AddrPort
	target    netip.AddrPort
	protocol  model.Protocol
}

func (e end) connection() policy.Connection {
	return policy.Connection{From: e.source.Addr(), To: e.target.Addr(), Protocol: e.protocol, Port: e.target.Port()}
}

// ruling is what an engine says at an end, and what the objects say about it. It is nil where policies judge no one.
type ruling struct {
	*policy.Ruling
	action   model.Action
	rule     *model.Rule
	evidence string // how the engine knows
}

func (r *ruling) allowed() bool { return r == nil || r.action == model.ActionAllow }

// seen is the end as the pod's node sees it.
func (e end) seen() refmodel.End {
	if e.direction == model.Ingress {
		return refmodel.End{Protocol: e.protocol, Pod: e.target, Peer: e.source}
	}
	return refmodel.End{Protocol: e.protocol, Pod: e.source, Peer: e.target}
}

// byRows is what a node's rows say at an end, and by which rule of theirs.
func byRows(n *refmodel.Node, rows *model.Tables, e end) (model.Action, *model.Rule) {
	said := n.Judge(e.direction, e.seen())
	if rule, has := rows.Rules[said.Rule]; has {
		return actions[said.Reason], &rule
	}
	return actions[said.Reason], nil
}

// actions are what reasons mean. A pod that isn't known yet is as good as closed.
var actions = map[model.DropReason]model.Action{
	model.ReasonNone: model.ActionAllow, model.ReasonDenied: model.ActionDeny, model.ReasonIsolated: model.ActionIsolate,
	model.ReasonPolicyClosed: model.ActionClosed, model.ReasonUnknownPod: model.ActionClosed,
}

// reasons are why what an action forbids is dropped.
var reasons = map[model.Action]model.DropReason{
	model.ActionAllow: model.ReasonNone, model.ActionDeny: model.ReasonDenied,
	model.ActionIsolate: model.ReasonIsolated, model.ActionClosed: model.ReasonPolicyClosed,
}

// fate is what policies say about a connection that ends at one address.
type fate struct {
	target          netip.AddrPort
	egress, ingress *ruling
}

func (f *fate) allowed() bool { return f.egress.allowed() && f.ingress.allowed() }

// denial is the ruling that stops it, nil if none does.
func (f *fate) denial() *ruling {
	switch {
	case !f.egress.allowed():
		return f.egress
	case !f.ingress.allowed():
		return f.ingress
	}
	return nil
}

// fates asks about each address where the connection may end. Policies see what a Service's address was exchanged for,
// if it was at the node that judges.
func (w *World) fates(engine Engine, c connection, o outcome) ([]fate, error) {
	if o.Verdict != refmodel.Forward {
		return nil, nil
	}
	ends := []fate{{target: c.dialled}}
	if len(o.Candidates) > 0 {
		ends = nil
		for _, b := range o.Candidates {
			ends = append(ends, fate{target: refmodel.AddrPort(b)})
		}
	}
	for i := range ends {
		if err := w.fate(engine, c, o, &ends[i], i); err != nil {
			return nil, err
		}
	}
	return ends, nil
}

func (w *World) fate(engine Engine, c connection, o outcome, f *fate, i int) (err error) {
	if c.from.pod != "" && !c.from.isHost {
		leaves := end{model.Egress, c.from.node, c.source, f.target, c.protocol}
		if c.node != c.from.node { // which translated nothing: the connection came here as it was dialled
			leaves.target = c.dialled
		}
		if f.egress, err = engine.judge(w, leaves); err != nil {
			return err
		}
	}
	holder := w.owners[f.target.Addr()]
	if holder.pod == "" {
		return nil
	}
	comes := end{model.Ingress, w.pods[holder.pod].GetPod().GetNode(), c.source, f.target, c.protocol}
	if i < len(o.masqueraded) && o.masqueraded[i] && comes.node != c.node {
		comes.source = netip.AddrPortFrom(w.masquerade(c), c.source.Port())
	}
	f.ingress, err = engine.judge(w, comes)
	return err
}

// masquerade is the address that other nodes see instead of the client's.
func (w *World) masquerade(c connection) netip.Addr {
	for _, a := range w.surroundings(c.node).Uplinks[refmodel.UplinkAny] {
		if model.FamilyOf(a) == model.FamilyOf(c.source.Addr()) {
			return a
		}
	}
	return c.source.Addr()
}

// objects is what the objects say at an end: by the policies themselves, whatever was made of them.
func (w *World) objects(e end) *policy.Ruling {
	if e.direction == model.Egress {
		return w.policies.Egress(e.connection())
	}
	return w.policies.Ingress(e.connection())
}

// judge implements Engine. Of a live cluster the rows that its nodes hold decide.
func (Model) judge(w *World, e end) (*ruling, error) {
	said := w.objects(e)
	if said == nil {
		return nil, nil
	}
	if w.live == nil {
		return &ruling{Ruling: said, action: said.Action, rule: said.Rule}, nil
	}
	if err := w.load(e.node); err != nil {
		return nil, err
	}
	_, rows := w.layers(e.node)
	action, rule := byRows(w.node(e.node), rows, e)
	return compared(&ruling{Ruling: said, action: action, rule: rule}, "the maps of node "+e.node), nil
}

// compared adds whether the objects agree with an engine.
func compared(r *ruling, whose string) *ruling {
	r.evidence = "same answer in " + whose + ": yes"
	if r.action != r.Action {
		r.evidence = fmt.Sprintf("same answer in %s: no, they say %s, the objects %s; a change is under way, or please report this", whose, r.action, r.Action)
	}
	return r
}

// tell is the part of an answer that policies are. Of several ends of a connection it tells of the first that lets it
// begin, or of the first if none does.
func (w *World) tell(a *Answer, c connection, fates []fate) {
	a.Policy = Policy{Ingress: PolicyVerdict{Verdict: "allow"}, Egress: PolicyVerdict{Verdict: "allow"}}
	if len(fates) == 0 {
		return
	}
	telling := fates[0]
	var denied []string
	for i := len(fates) - 1; i >= 0; i-- {
		if fates[i].allowed() {
			telling = fates[i]
		}
	}
	for _, f := range fates {
		if !f.allowed() {
			denied = append(denied, f.target.String())
		}
	}
	a.Policy.Egress, a.Policy.Ingress = verdictOf(telling.egress), verdictOf(telling.ingress)
	a.Steps = append(a.Steps, telling.steps()...)
	for _, r := range []*ruling{telling.egress, telling.ingress} {
		a.Causes = append(a.Causes, w.policyCauses(r)...)
	}
	switch denial := telling.denial(); {
	case denial != nil:
		a.Evidence = denial.evidence
		a.Verdict, a.Reason = refmodel.Drop.String(), reasons[denial.action].String()
	case len(denied) > 0:
		a.Policy.Denied = denied
		a.Steps = append(a.Steps, fmt.Sprintf("policies stop it if the backend is %s: then it is dropped", strings.Join(firstOf(denied, namedBackends), ", ")))
	}
	a.Target = telling.target.String()
	a.Path = w.path(c, a, telling.target)
}

// path draws the way of a connection.
func (w *World) path(c connection, a *Answer, to netip.AddrPort) string {
	from := c.from.pod
	switch {
	case from == "" && c.from.isHost:
		from = "node/" + c.from.node
	case from == "":
		from = c.source.Addr().String()
	}
	end := to.String()
	if holder := w.owners[to.Addr()]; holder.pod != "" {
		end = holder.pod + " " + end
	}
	if a.Service == nil {
		return fmt.Sprintf("%s ──▶ %s", from, end)
	}
	name, _, _ := strings.Cut(*a.Service, ":")
	return fmt.Sprintf("%s ── svc %s %s ──▶ backend %s (1 of %d)", from, name, c.dialled, end, len(a.Candidates))
}

// steps tells in sentences what policies say; of one who may not begin it nothing is said of where it would end.
func (f *fate) steps() []string {
	switch {
	case f.egress == nil && f.ingress == nil:
		return []string{"no policy judges it: neither end is a pod that policies know"}
	case f.egress.silent() && f.ingress.silent():
		return []string{"no policy selects the pods: allowed"}
	case !f.egress.allowed():
		return stepsOf(f.egress)
	}
	return append(stepsOf(f.egress), stepsOf(f.ingress)...)
}

// silent says that there is nothing to tell.
func (r *ruling) silent() bool {
	return r == nil || r.allowed() && r.Always == "" && len(r.Policies) == 0
}

func verdictOf(r *ruling) PolicyVerdict {
	v := PolicyVerdict{Verdict: "allow"}
	if r == nil {
		return v
	}
	v.Pod, v.Node, v.Always = r.Pod, r.Node, r.Always
	if !r.allowed() {
		v.Verdict, v.Reason = "deny", reasons[r.action].String()
	}
	if r.rule != nil {
		rule, name := ruleText(r.rule), r.rule.Policy.String()
		v.Rule, v.Policy = &rule, &name
	}
	var isolating []string
	for _, asked := range r.Policies {
		v.Policies = append(v.Policies, askedOf(r.Ruling, asked))
		if r.action == model.ActionClosed && asked.Refused != "" || r.action == model.ActionIsolate && asked.Policy.Kind == model.NetworkPolicy {
			isolating = append(isolating, asked.Policy.String())
		}
	}
	if v.Policy == nil && len(isolating) > 0 {
		names := strings.Join(isolating, ", ")
		v.Policy = &names
	}
	return v
}

// ruleText is a rule's place in its policy, with its name if it has one.
func ruleText(rule *model.Rule) string {
	text := fmt.Sprintf("%s[%d]", rule.Direction, rule.Index)
	if rule.Name != "" {
		text += " " + rule.Name
	}
	return text
}

// askedOf says what one policy said.
func askedOf(r *policy.Ruling, asked policy.Asked) PolicyAsked {
	a := PolicyAsked{Policy: asked.Policy.String(), Nearest: asked.Nearest}
	does := map[schemas.RuleAction]string{
		schemas.RuleAction_RULE_ACTION_ACCEPT: "allow", schemas.RuleAction_RULE_ACTION_DENY: "deny", schemas.RuleAction_RULE_ACTION_PASS: "pass",
	}
	switch at := ruleText(&model.Rule{Direction: r.Direction, Index: uint16(max(asked.Matched, 0)), Name: asked.Name}); {
	case asked.Refused != "":
		a.Verdict, a.Text = "closed", "is not in force, so nothing passes: "+asked.Refused
	case !asked.Reached:
		a.Verdict, a.Text = "unasked", "is not asked any more"
	case asked.Matched >= 0 && does[asked.Action] == "pass":
		a.Verdict, a.Text = "pass", at+" passes it on to the next tier"
	case asked.Matched >= 0:
		a.Verdict, a.Text = does[asked.Action], at+map[string]string{"allow": " allows it", "deny": " denies it"}[does[asked.Action]]
	case asked.Miss != nil && asked.Miss.Text != "":
		a.Verdict, a.Text = "none", fmt.Sprintf("%s[%d] %s", r.Direction, asked.Miss.Rule, asked.Miss.Text)
	default:
		a.Verdict, a.Text = "none", "selects the pod, no rule matches"
	}
	return a
}

// stepsOf tells a ruling in sentences.
func stepsOf(r *ruling) (steps []string) {
	if r == nil {
		return nil
	}
	where := fmt.Sprintf("%s of pod %s", r.Direction, r.Pod)
	switch {
	case r.Always != "":
		return []string{where + ": " + r.Always}
	case len(r.Policies) == 0 && r.allowed():
		steps = append(steps, where+": no policy selects it, all passes")
	case r.rule != nil:
		does := "denies it"
		if r.allowed() {
			does = "allows it"
		}
		steps = append(steps, fmt.Sprintf("%s: %s %s", where, r.rule, does))
	case r.allowed():
		steps = append(steps, where+": no rule matches, and no NetworkPolicy isolates it: all passes")
	default:
		steps = append(steps, where+": "+reasonText(reasons[r.action]))
	}
	for _, asked := range r.Policies {
		if asked.Nearest {
			steps = append(steps, fmt.Sprintf("nearest: %s %s[%d] %s", asked.Policy, r.Direction, asked.Miss.Rule, asked.Miss.Text))
		}
	}
	if r.evidence != "" {
		steps = append(steps, r.evidence)
	}
	return steps
}

// policyCauses are the objects that a ruling comes from: the policy that decided, else those that select the pod.
func (w *World) policyCauses(r *ruling) (causes []Cause) {
	if r == nil {
		return nil
	}
	for _, asked := range r.Policies {
		decides := r.rule != nil && r.rule.Policy == asked.Policy
		isolates := r.rule == nil && !r.allowed() && asked.Reached
		if fact := w.policyFacts[asked.Policy]; fact != nil && (decides || isolates) {
			causes = append(causes, causeOf(fact))
		}
	}
	return causes
}
