// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// victim is a service behind a relay of its own.
type victim struct {
	*relay
	*process
	h       *hostile
	kind    kind // of the messages that its relay does something to
	name    string
	program string
	args    []string
	address string
}

func (h *hostile) victim(k kind, program, name string, args ...string) *victim {
	return &victim{relay: newRelay(h.t, h.url), h: h, kind: k, name: name, program: program, args: args, address: ownAddress()}
}

func (h *hostile) nodeVictim(k kind, name string) *victim {
	h.nodes = append(h.nodes, name)
	return h.victim(k, "programmer", name, "--node", name, "--maps", "memory", "--trusted-keys", filepath.Join(h.keys.NodePath("node-a"), trust.FileSeals))
}

func (h *hostile) compilerVictim(k kind, name string) *victim {
	folder := h.keys.Path("compiler")
	return h.victim(k, "compiler", name, "--name", name,
		"--signing-key", filepath.Join(folder, trust.FileSeal), "--trusted-keys", filepath.Join(folder, trust.FileSeals))
}

// run starts the service.
func (v *victim) run() {
	v.h.t.Helper()
	v.process = v.h.start(v.url(), v.address, v.program, v.args...)
}

// startsToHear says whether a victim hears its kind of message only when it starts.
func (v *victim) startsToHear() bool {
	return v.kind == anAnswer || v.kind == aCheckpoint || v.kind == aHold
}

// town is a cluster whose services each have a relay before them.
type town struct {
	*hostile
	fact, checkpoint, hold         *victim // compilers; the first leads
	delta, heartbeat, answer, deaf *victim // nodes; the last one hears no heartbeat at all

	mu     sync.Mutex
	seen   map[place]string // what nodes held at any time, and who
	pulses map[string]*schemas.Pulse
	size   int // endpoints there are
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{hostile: takeBus(t), seen: map[place]string{}, pulses: map[string]*schemas.Pulse{}, size: 1}
	w.nodes = nil
	w.fact, w.checkpoint, w.hold = w.compilerVictim(aFact, "a"), w.compilerVictim(aCheckpoint, "b"), w.compilerVictim(aHold, "c")
	w.delta, w.heartbeat, w.answer = w.nodeVictim(aDelta, "node-a"), w.nodeVictim(aHeartbeat, "node-b"), w.nodeVictim(anAnswer, "node-c")
	w.deaf = w.nodeVictim(aHeartbeat, "node-d")
	w.deaf.deafen()
	if _, err := w.conn.Subscribe(schemas.PulseSubject("compiler"), w.pulse); err != nil {
		t.Fatal(err)
	}
	w.endpoints(w.size)
	w.watcher()
	w.fact.run()
	for _, v := range w.nodeVictims() {
		v.run()
	}
	testkit.Eventually(t, 2*soon, func() bool { return w.newest().Revision > 0 })
	w.rollBackAndResume()
	w.checkpoint.run()
	w.hold.run()
	w.agree()
	return w
}

func (w *town) nodeVictims() []*victim { return []*victim{w.delta, w.heartbeat, w.answer, w.deaf} }

func (w *town) victims() []*victim {
	return []*victim{w.fact, w.checkpoint, w.hold, w.delta, w.heartbeat, w.answer}
}

// restart ends a service and starts it again.
func (w *town) restart(v *victim) {
	w.t.Helper()
	v.stop()
	w.mu.Lock()
	delete(w.pulses, v.name)
	w.mu.Unlock()
	v.run()
}

func (w *town) pulse(m bus.Message) {
	pulse := &schemas.Pulse{}
	if proto.Unmarshal(m.Data, pulse) == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pulses[pulse.GetName()] = pulse
	}
}

// change has the cluster change once.
func (w *town) change() {
	w.t.Helper()
	w.size = w.size%20 + 1
	w.endpoints(w.size)
}

// newest is what the compiler has led to last.
func (w *town) newest() model.Position {
	w.hostile.mu.Lock()
	defer w.hostile.mu.Unlock()
	return w.last
}

// ledTo says whether a compiler has led to a place, which all begin below.
func (w *town) ledTo(p place) bool {
	w.hostile.mu.Lock()
	defer w.hostile.mu.Unlock()
	return w.led[p] || p.at.Revision == 0
}

// beats returns how many heartbeats were heard of the newest epoch.
func (w *town) beats() (n int, of model.Epoch) {
	w.hostile.mu.Lock()
	defer w.hostile.mu.Unlock()
	for _, m := range w.said {
		var beat schemas.Heartbeat
		if m.Subject != schemas.SubjectHeartbeat || proto.Unmarshal(m.Data, &beat) != nil {
			continue
		}
		if epoch := model.Epoch(beat.GetEpoch()); epoch > of {
			n, of = 0, epoch
		}
		n++
	}
	return n, of
}

// revision is what a node holds, or to where a compiler has come; 0 while it doesn't say.
func (w *town) revision(v *victim) model.Revision {
	if v.program == "programmer" {
		at, _ := w.look(v)
		return at.Revision
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pulses[v.name]; p.GetAble() {
		return model.Revision(p.GetRevision())
	}
	return 0
}

// look asks what a node holds, and remembers it.
func (w *town) look(v *victim) (cluster model.Position, backends int) {
	backends, positions, err := w.dump(v.name)
	if err != nil {
		return cluster, 0 // it is only starting
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for layer, at := range positions {
		w.seen[place{layer, at}] = v.name
	}
	return positions[model.ClusterLayer], backends
}

// agree waits until all nodes hold what the cluster is, and all compilers that run have come to the same.
func (w *town) agree() {
	w.t.Helper()
	var late string
	defer func() {
		if late != "" {
			w.t.Log(late)
		}
	}()
	testkit.Eventually(w.t, 3*soon, func() bool {
		late = w.late()
		return late == ""
	})
}

// late says who isn't where the others are.
func (w *town) late() string {
	newest := w.newest()
	for _, v := range w.nodeVictims() {
		if at, backends := w.look(v); at != newest || backends != w.size {
			return fmt.Sprintf("%s holds %d backends at %v, the cluster has %d and the compiler leads to %v", v.name, backends, at, w.size, newest)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	hold := w.pulses[w.hold.name]
	for _, v := range []*victim{w.checkpoint, w.hold} {
		if p := w.pulses[v.name]; !p.GetAble() || p.GetRevision() != hold.GetRevision() || !bytes.Equal(p.GetDigest(), hold.GetDigest()) ||
			model.Revision(p.GetRevision()) < newest.Revision {
			return fmt.Sprintf("compiler %s is at %v, %s at %v, nodes at %v", v.name, p, w.hold.name, hold, newest)
		}
	}
	return ""
}
