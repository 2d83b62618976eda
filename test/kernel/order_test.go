// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/manifest"
)

var (
	orderSeed    = flag.Uint64("order.seed", 0, "seed of the changes under streams; 0 is a new one each time")
	orderChanges = flag.Int("order.changes", 12, "changes under streams")
)

// slot is an object of a town that has several forms; an empty one is that it isn't there.
type slot struct {
	name  string
	forms []string
	gone  string // names the object
	now   int
}

// orderSlots are what changes under the streams: in all forms together, w reaches x/a at port 7080, mostly, and z doesn't.
// Their selectors split and merge whom they name in different ways.
func orderSlots() []*slot {
	toA := func(ingress string) string { return policy("x", "p", podA+", ingress: "+ingress) }
	const (
		inW     = "namespaceSelector: {matchLabels: {ns: w}}"
		own     = "podSelector: {matchLabels: {pod: b}}"
		at7080  = "ports: [{port: 7080, protocol: UDP}]"
		at7081  = "ports: [{port: 7081, protocol: UDP}]"
		notZ4   = "ipBlock: {cidr: 0.0.0.0/0, except: [IP4[z/a]/32, IP4[z/b]/32, IP4[x/c]/32]}"
		notZ6   = `ipBlock: {cidr: "::/0", except: ["IP6[z/a]/128", "IP6[z/b]/128", "IP6[x/c]/128"]}`
		onlyW   = `{ipBlock: {cidr: IP4[w/a]/32}}, {ipBlock: {cidr: "IP6[w/a]/128"}}, {ipBlock: {cidr: IP4[w/b]/32}}, {ipBlock: {cidr: "IP6[w/b]/128"}}`
		zOut    = "{action: Deny, from: [{namespaces: {matchLabels: {ns: z}}}]}"
		wIn     = "{action: Accept, from: " + fromW + ", protocols: [{udp: {destinationPort: {number: 7080}}}]}"
		notRed  = "podSelector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}"
		anybody = "from: [{namespaceSelector: {}}]"
	)
	return []*slot{
		{name: "who reaches x/a", forms: []string{
			toA("[{from: [{" + inW + "}], " + at7080 + "}]"),
			toA("[{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [w]}]}, podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}}], ports: [{port: 7000, endPort: 7080, protocol: UDP}]}]"),
			toA("[{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x, z]}]}}, {" + own + "}]}]"),
			toA("[{from: [{" + notZ4 + "}, {" + notZ6 + "}], ports: [{port: 7080, protocol: UDP}, {port: 7081, protocol: UDP}]}]"),
			toA("[{from: [" + onlyW + ", {" + own + "}], " + at7080 + "}, {from: [{" + own + "}], " + at7081 + "}]"),
			toA("[{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: w}}, " + notRed + "}]}, {from: [{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b]}]}}], " + at7081 + "}]"),
		}},
		{name: "who else does", gone: policy("x", "q", ""), forms: []string{
			"", policy("x", "q", podA+", ingress: [{from: [{"+own+"}]}]"),
			policy("x", "q", "podSelector: {matchLabels: {tier: t}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}], "+at7081+"}]"),
		}},
		{name: "what x/a reaches", gone: policy("x", "e", ""), forms: []string{
			"", policy("x", "e", podA+", "+outward+", egress: [{to: [{"+inW+"}], "+at7080+"}]"),
			policy("x", "e", podA+", "+outward+`, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [IP4[w/b]/32]}}, {ipBlock: {cidr: "::/0", except: ["IP6[w/a]/128"]}}]}]`),
		}},
		{name: "the Admin tier", gone: tier("over", "Admin", 1, ""), forms: []string{
			"", tier("over", "Admin", 10, xA+", ingress: ["+wIn+", "+zOut+"]"),
			tier("over", "Admin", 10, xA+", ingress: ["+zOut+", {action: Deny, from: "+everyNS+", protocols: [{udp: {destinationPort: {number: 7081}}}]}, {action: Pass, from: "+everyNS+"}]"),
		}},
		{name: "the Baseline tier", gone: tier("under", "Baseline", 1, ""), forms: []string{
			"", tier("under", "Baseline", 10, "subject: {namespaces: {matchLabels: {ns: w}}}, ingress: [{action: Deny, from: "+everyNS+", protocols: [{udp: {destinationPort: {range: {start: 7081, end: 7090}}}}]}]"),
			tier("under", "Baseline", 10, inX+", egress: [{action: Deny, to: "+fromZ+"}]"),
		}},
		{name: "all of z", forms: []string{policy("z", "z", everyPod+", ingress: [{"+anybody+"}]"), policy("z", "z", everyPod+", "+inward)}},
		{name: "labels of x/b", forms: []string{townPod("x", "b", "node-2"), dressed("x", "b", "node-2", "pod: c")}},
		{name: "labels of x/a", forms: []string{townPod("x", "a", "node-1"), dressed("x", "a", "node-1", "pod: a, tier: t")}},
		{name: "labels of w/a", forms: []string{townPod("w", "a", "node-2"), dressed("w", "a", "node-2", "pod: a, team: red"), dressed("w", "a", "node-2", "pod: a, team: blue")}},
		{name: "labels of w", forms: []string{namespace("w", "ns: w"), namespace("w", "ns: w, team: red")}},
	}
}

// orderCalls are to one pod, from its own node and the other, from pods that are always let in, never, or now and then;
// and some that it begins itself.
func orderCalls() (all []call) {
	for _, family := range []int{4, 6} {
		for _, from := range []string{"w/a", "w/b", "x/b", "x/c", "z/a", "z/b"} {
			all = append(all, call{from, "x/a", 7080, "udp", family}, call{from, "x/a", 7081, "udp", family})
		}
		for _, to := range []string{"w/a", "w/b", "z/b"} {
			all = append(all, call{"x/a", to, 7080, "udp", family})
		}
		all = append(all, call{"x/c", "x/b", 7080, "udp", family}, call{"z/a", "x/b", 7080, "udp", family})
	}
	return all
}

// walk changes a town at random, and keeps its history.
type walk struct {
	*history

	t       *testing.T
	scene   *scene
	streams *streams
	talks   []*stream // that are echoed, and end before the last policy goes
	random  *rand.Rand
	slots   []*slot
	changes int
	waited  int
}

func newWalk(t *testing.T, s *scene, seed uint64) *walk {
	t.Helper()
	if seed == 0 {
		seed = anySeed(t)
	}
	t.Logf("-order.seed=%d", seed)
	w := &walk{history: &history{}, t: t, scene: s, random: rand.New(rand.NewPCG(seed, 1)), slots: orderSlots()}
	w.begins(newMoment(t, s.Cluster()))
	w.streams = newStreams(t, s, 2*time.Millisecond)
	for _, c := range orderCalls() {
		w.streams.add(c, 0, false)
	}
	return w
}

// first brings the first policies of the cluster. Conversations begin after that: of older ones nobody has seen who began.
func (w *walk) first() {
	w.t.Helper()
	for _, s := range w.slots {
		if s.gone == "" {
			s.now = 0
		}
	}
	w.put(nil, w.slots[0].forms[0], w.slots[5].forms[0])
	for i, c := range orderCalls() {
		if i%2 == 0 {
			w.talks = append(w.talks, w.streams.add(c, 0, true))
		}
	}
}

// none takes all policies away, one by one.
func (w *walk) none() {
	w.t.Helper()
	for _, one := range w.talks {
		one.end()
	}
	w.talks = nil
	for _, s := range w.slots {
		if s.gone != "" && s.forms[s.now] != "" {
			w.remove(s.gone, nil)
			s.now = 0
		}
	}
	w.remove(policy("z", "z", ""), nil)
	w.remove(policy("x", "p", ""), nil)
}

// last is the state that is live.
func (w *walk) last() *moment {
	states := w.eras[len(w.eras)-1].states
	return states[len(states)-1]
}

// step gives one slot another form, or two at the same time, or waits for a policy by the command.
func (w *walk) step(during func()) {
	w.t.Helper()
	if w.random.IntN(5) == 0 {
		w.waitsFor(during)
		return
	}
	var put []*slot
	for _, i := range w.random.Perm(len(w.slots))[:1+w.random.IntN(2)] {
		s := w.slots[i]
		s.now = (s.now + 1 + w.random.IntN(len(s.forms)-1)) % len(s.forms)
		if s.forms[s.now] != "" {
			put = append(put, s)
			continue
		}
		w.remove(s.gone, during)
	}
	var texts []string
	for _, s := range put {
		texts = append(texts, s.forms[s.now])
	}
	if len(texts) > 0 {
		w.put(during, texts...)
	}
}

// put applies objects at the same time: each is there or not while that is under way.
func (w *walk) put(during func(), texts ...string) {
	w.t.Helper()
	var objects strings.Builder
	for _, text := range texts {
		objects.WriteString(w.scene.addressed(text))
	}
	w.changing(w.mixed(texts), during)
	check(w.t, w.scene.Apply(w.t.Context(), decoded(w.t, objects.String())))
	w.live()
}

func (w *walk) remove(text string, during func()) {
	w.t.Helper()
	objects := decoded(w.t, text)
	next := w.scene.Cluster()
	for object := range objects.All() {
		next.Remove(object)
	}
	w.changing([]*moment{w.last(), newMoment(w.t, next)}, during)
	check(w.t, w.scene.Delete(w.t.Context(), objects))
	w.live()
}

// mixed are the states in which some of what is put is there.
func (w *walk) mixed(texts []string) (states []*moment) {
	w.t.Helper()
	for some := range 1 << len(texts) {
		next := w.scene.Cluster()
		for i, text := range texts {
			if some&(1<<i) == 0 {
				continue
			}
			for object := range decoded(w.t, w.scene.addressed(text)).All() {
				next.Add(placed(next, object))
			}
		}
		states = append(states, newMoment(w.t, next))
	}
	return states
}

// placed is a pod as it is, with the labels of another.
func placed(in *manifest.Objects, object manifest.Object) manifest.Object {
	for _, p := range in.Pods {
		if object.GetObjectKind().GroupVersionKind().Kind == "Pod" && manifest.Name(p) == manifest.Name(object) {
			p = p.DeepCopy()
			p.Labels = object.GetLabels()
			return p
		}
	}
	return object
}

func (w *walk) changing(states []*moment, during func()) {
	w.scene.changed()
	w.changes++
	w.begins(states...)
	if during != nil {
		during()
	}
}

// live notes that a change is, and lets the streams go on with it for a while.
func (w *walk) live() {
	w.t.Helper()
	w.begins(newMoment(w.t, w.scene.Cluster()))
	w.streams.send(30)
}

// waitsFor closes x/b, and opens it again: it is closed from when deltaplane wait says so.
func (w *walk) waitsFor(during func()) {
	w.t.Helper()
	w.waited++
	name := fmt.Sprintf("closed-%d", w.waited)
	text := policy("x", name, "podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}, "+[]string{inward, bothWays}[w.random.IntN(2)])
	w.changing(w.mixed([]string{text}), during)
	applied := make(chan error, 1)
	go func() { applied <- w.scene.Apply(context.WithoutCancel(w.t.Context()), decoded(w.t, text)) }()
	said, err := w.waitFor("networkpolicy/x/" + name)
	w.begins(w.last())
	w.streams.send(30)
	failed := <-applied
	if err != nil || !bytes.Contains(said, []byte("live on 2 of 2 nodes")) {
		w.t.Fatalf("deltaplane wait: %v: %s", err, said)
	}
	check(w.t, failed)
	w.remove(text, nil)
}

// waitFor runs deltaplane wait, again while the compiler that it asks is being killed.
func (w *walk) waitFor(object string) (said []byte, err error) {
	for range 200 {
		said, err = exec.CommandContext(w.t.Context(), w.scene.program, "wait", object, "--bus", w.scene.BusURL()).CombinedOutput()
		if !bytes.Contains(said, []byte("no compiler answers")) {
			break
		}
	}
	return said, err
}

// Policy row 7: while policies come, change and go, nothing is lost that is allowed before and after, and nothing passes
// that is denied before and after; from when a change is live, as deltaplane wait says, not one datagram passes that it
// denies. The same with the first policy of a cluster, and the last.
// Policy row 8: identities split and merge under traffic without a verdict that no policy gives.
func TestStreamsWhilePoliciesChange(t *testing.T) {
	t.Parallel()
	s := newScene(t, "order", townYAML())
	w := newWalk(t, s, *orderSeed)
	for range 2 {
		w.first()
		for range *orderChanges / 2 {
			w.step(nil)
		}
		w.none()
	}
	t.Logf("%d changes, %d of them waited for by command", w.changes, w.waited)
	w.streams.settled(w.history)
}
