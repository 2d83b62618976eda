// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

var (
	seedFlag  = flag.Uint64("differential.seed", 0, "seed of the differential test; 0 takes the time")
	runsFlag  = flag.Int("differential.runs", 300, "how many worlds the differential test makes")
	stepsFlag = flag.Int("differential.steps", 400, "how many packets and changes each world sees")
)

// TestProgramsAgreeWithTheModel sends random packets through the real programs, over random tables that change in
// between, and lets the reference model judge each. A failure prints the seed that brings it back.
func TestProgramsAgreeWithTheModel(t *testing.T) {
	testkit.NeedKernel(t)
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -differential.seed=%d", seed, seed)
	var total tally
	kernel := newKernelNode(t)
	for i := range *runsFlag {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		steps := *stepsFlag
		var made []int
		choose := func(n int) int { made = append(made, rng.IntN(n)); return made[len(made)-1] }
		more := func() bool { steps--; return steps >= 0 }
		if err := differential(t, kernel, choose, more, &total); err != nil {
			err = shrink(made, err, func(choices []int) error { return replay(t, kernel, choices) })
			t.Fatalf("world %d of seed %d: %v", i, seed, err)
		}
	}
	t.Logf("%d packets: %s", total.packets(), total)
	if total.translated == 0 || total.refused == 0 || total.dropped == 0 || total.replies == 0 || total.errors == 0 || total.reported == 0 {
		t.Errorf("the worlds are too tame: %s", total)
	}
}

// FuzzProgramsAgreeWithTheModel lets the fuzzer choose instead of a seed: each byte is a choice.
func FuzzProgramsAgreeWithTheModel(f *testing.F) {
	testkit.NeedKernel(f)
	f.Add([]byte("any bytes make a world and the packets in it, one choice a byte, until they are used up"))
	kernel := newKernelNode(f)
	f.Fuzz(func(t *testing.T, choices []byte) {
		if err := replay(t, kernel, choices); err != nil {
			t.Error(err)
		}
	})
}

// replay runs the world that choices make, as far as they reach.
func replay[C byte | int](t *testing.T, kernel *kernelnode.Node, choices []C) error {
	t.Helper()
	choose := func(n int) int {
		if len(choices) == 0 {
			return 0
		}
		c := int(choices[0]) % n
		choices = choices[1:]
		return c
	}
	return differential(t, kernel, choose, func() bool { return len(choices) > 0 }, &tally{})
}

// shrinkReplays bounds the time that a failure takes to become small.
const shrinkReplays = 3000

// shrink leaves out choices, many at first and then single ones, as long as the world that is left still fails, and
// returns how the smallest fails.
func shrink(choices []int, err error, run func([]int) error) error {
	replays := 0
	for size := len(choices) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(choices) && replays < shrinkReplays; replays++ {
			fewer := slices.Concat(choices[:at], choices[at+size:])
			if smaller := run(fewer); smaller != nil {
				choices, err = fewer, smaller
			} else {
				at += size
			}
		}
	}
	return err
}

func newKernelNode(t testing.TB) *kernelnode.Node {
	t.Helper()
	kernel, err := kernelnode.New(1024, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kernel.Close)
	return kernel
}

// tally counts what was seen, so that a generator that no longer reaches something is noticed.
type tally struct{ untouched, translated, replies, refused, dropped, reported, errors, changes int }

func (c tally) packets() int {
	return c.untouched + c.translated + c.replies + c.errors + c.refused + c.dropped
}

// String names the counts.
func (c tally) String() string {
	return fmt.Sprintf("%d untouched, %d translated (%d with another client port), %d replies and %d errors translated, %d refused, %d dropped; %d changes of tables",
		c.untouched, c.translated, c.reported, c.replies, c.errors, c.refused, c.dropped, c.changes)
}

// judge holds the programs and the model to each other.
type judge struct {
	t      *testing.T
	kernel *kernelnode.Node
	flows  *refmodel.Flows
	node   *refmodel.Node
	tally  *tally
	told   []string // the last steps, for people
}

// differential runs one world up to the first disagreement, and tells all about that.
func differential(t *testing.T, kernel *kernelnode.Node, choose func(int) int, more func() bool, total *tally) error {
	t.Helper()
	if err := kernel.Reset(); err != nil {
		t.Fatal(err)
	}
	j := &judge{t: t, kernel: kernel, flows: refmodel.NewFlows(), tally: total}
	w := newWorld(choose)
	for first := true; more(); first = false {
		var err error
		if first || choose(12) == 0 {
			err = j.change(w)
		} else {
			err = j.packet(w.packet())
		}
		if err != nil {
			return fmt.Errorf("%w\nthe tables:\n%s\nthe last steps:\n%s", err, w, j.history())
		}
	}
	return nil
}

func (j *judge) change(w *world) error {
	w.change()
	j.tally.changes++
	j.tell("the tables change: %s", w.changed)
	if err := j.kernel.Set(model.LayerCluster, w.tables); err != nil {
		return err
	}
	j.node = refmodel.New(refmodel.NewLayer(w.tables.Clone()))
	return nil
}

func (j *judge) packet(frame []byte, toPod bool) error {
	run := j.kernel.FromPod
	if toPod {
		run = j.kernel.ToPod
	}
	verdict, out, err := run(frame)
	if err != nil {
		return fmt.Errorf("frame %x: %w", frame, err)
	}
	p, readable := refmodel.Parse(frame)
	if !readable && toPod {
		return j.errorToPod(frame, verdict, out)
	}
	if !readable {
		j.tally.untouched++
		if verdict != bpf.Pass || !bytes.Equal(out, frame) {
			return fmt.Errorf("frame %x can be no Service's, but the verdict is %s with %x", frame, verdict, out)
		}
		return nil
	}
	did, err := j.outcome(p, frame, verdict, out)
	j.tell("%s %s: %s", map[bool]string{false: "from pod", true: "to pod"}[toPod], p, did)
	if err != nil {
		return fmt.Errorf("%s: %w\nframe in  %x\nframe out %x", p, err, frame, out)
	}
	j.count(p, did, toPod)
	if toPod {
		err = j.flows.ToPod(p, did)
	} else {
		err = j.flows.FromPod(j.node, p, did)
	}
	if err != nil {
		return fmt.Errorf("%w\nframe in  %x\nframe out %x", err, frame, out)
	}
	return nil
}

// errorToPod judges what is no packet of a flow but may be an ICMP error about one.
func (j *judge) errorToPod(frame []byte, verdict bpf.Verdict, out []byte) error {
	want := j.flows.ErrorToPod(frame)
	j.tell("to pod, no flow's packet, to be translated: %v", !bytes.Equal(want, frame))
	if verdict != bpf.Pass || !bytes.Equal(out, want) {
		return fmt.Errorf("%s of\nframe in  %x\nframe out %x\nwanted    %x", verdict, frame, out, want)
	}
	if bytes.Equal(want, frame) {
		j.tally.untouched++
	} else {
		j.tally.errors++
	}
	return nil
}

// outcome reads what the programs did, and checks every byte of what came out.
func (j *judge) outcome(p refmodel.Packet, frame []byte, verdict bpf.Verdict, out []byte) (refmodel.Outcome, error) {
	switch verdict {
	case bpf.Drop:
		did := refmodel.Outcome{Verdict: refmodel.Drop}
		if d := j.node.NewPacket(p); d.Verdict == refmodel.Reject && !hasOptions(frame) {
			return did, fmt.Errorf("dropped, though it can be answered: %s", d.Reason)
		}
		return did, nil
	case bpf.Refuse:
		return refmodel.Outcome{Verdict: refmodel.Reject}, p.CheckRefusal(frame, out)
	}
	after, readable := refmodel.Parse(out)
	if !readable {
		return refmodel.Outcome{Verdict: refmodel.Forward}, fmt.Errorf("what came out can't be read any more")
	}
	did := refmodel.Outcome{Verdict: refmodel.Forward, Source: after.Source, Destination: after.Destination}
	if p.LengthsLie { // there is no right checksum
		return did, nil
	}
	if want := p.Rewrite(frame, did.Source, did.Destination); !bytes.Equal(out, want) {
		return did, fmt.Errorf("%s, but with other bytes than\nwanted    %x", did, want)
	}
	return did, nil
}

func (j *judge) count(p refmodel.Packet, did refmodel.Outcome, toPod bool) {
	same := did.Source == p.Source && did.Destination == p.Destination
	switch {
	case did.Verdict == refmodel.Drop:
		j.tally.dropped++
	case did.Verdict == refmodel.Reject:
		j.tally.refused++
	case same:
		j.tally.untouched++
	case toPod:
		j.tally.replies++
	default:
		j.tally.translated++
		if did.Source != p.Source {
			j.tally.reported++
		}
	}
}

// historyLength is how many steps are told of before a disagreement.
const historyLength = 40

func (j *judge) tell(format string, args ...any) {
	j.told = append(j.told, fmt.Sprintf(format, args...))
	if len(j.told) > historyLength {
		j.told = j.told[1:]
	}
}

func (j *judge) history() string {
	var b bytes.Buffer
	for _, line := range j.told {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	return b.String()
}

// hasOptions says that an IPv4 header has options: such a datagram isn't answered.
func hasOptions(frame []byte) bool { return frame[14]>>4 == 4 && frame[14]&15 > 5 }
