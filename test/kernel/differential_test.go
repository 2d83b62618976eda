// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

var (
	seedFlag  = flag.Uint64("differential.seed", 0, "seed of the differential tests; 0 takes DELTAPLANE_SEED, or the time")
	runsFlag  = flag.Int("differential.runs", 300, "how many worlds the differential test makes")
	stepsFlag = flag.Int("differential.steps", 400, "how many packets and changes each world sees")
)

// anySeed returns the seed that was asked for, or a fresh one, and says which.
func anySeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if text := os.Getenv("DELTAPLANE_SEED"); seed == 0 && text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("DELTAPLANE_SEED: %v", err)
		}
	}
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -differential.seed=%d", seed, seed)
	return seed
}

// TestProgramsAgreeWithTheModel sends random packets through the real programs, over random tables that change in
// between, and lets the reference model judge each. A failure prints the seed that brings it back.
//
// Row 21: over sequences of 100,000 packets, while tables change, the programs do with each what the reference model
// does.
func TestProgramsAgreeWithTheModel(t *testing.T) {
	testkit.NeedKernel(t)
	seed := anySeed(t)
	total := tally{}
	kernels := []kernelNode{newKernelNode(t, false), newKernelNode(t, true)}
	for i := range *runsFlag {
		kernel := kernels[i%len(kernels)]
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		steps := *stepsFlag
		var made []int
		choose := func(n int) int { made = append(made, rng.IntN(n)); return made[len(made)-1] }
		more := func() bool { steps--; return steps >= 0 }
		if err := differential(t, kernel, choose, more, total); err != nil {
			err = shrink(made, err, func(choices []int) error { return replay(t, kernel, choices) })
			t.Fatalf("world %d of seed %d: %v", i, seed, err)
		}
	}
	t.Logf("%d packets: %s", total.packets(), total)
	if missing := total.missing(); missing != "" {
		t.Errorf("the worlds are too tame, nothing was %s", missing)
	}
}

// FuzzProgramsAgreeWithTheModel lets the fuzzer choose instead of a seed: each byte is a choice.
func FuzzProgramsAgreeWithTheModel(f *testing.F) {
	testkit.NeedKernel(f)
	f.Add([]byte("any bytes make a world and the packets in it, one choice a byte, until they are used up"))
	kernel := newKernelNode(f, false)
	f.Fuzz(func(t *testing.T, choices []byte) {
		if err := replay(t, kernel, choices); err != nil {
			t.Error(err)
		}
	})
}

// replay runs the world that choices make, as far as they reach.
func replay[C byte | int](t *testing.T, kernel kernelNode, choices []C) error {
	t.Helper()
	choose := func(n int) int {
		if len(choices) == 0 {
			return 0
		}
		c := int(choices[0]) % n
		choices = choices[1:]
		return c
	}
	return differential(t, kernel, choose, func() bool { return len(choices) > 0 }, tally{})
}

// shrinkReplays bounds the time that a failure takes to become small.
const shrinkReplays = 1000

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

// kernelNode is loaded programs in fixed surroundings.
type kernelNode struct {
	*kernelnode.Node
	around refmodel.Surroundings
}

func newKernelNode(t testing.TB, masqueradeAll bool) kernelNode {
	t.Helper()
	kernel, err := kernelnode.New(1024, masqueradeAll)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kernel.Close)
	around := surroundings(masqueradeAll)
	if err := kernel.Surround(around); err != nil {
		t.Fatal(err)
	}
	return kernelNode{kernel, around}
}

// tally counts what was seen, so that a generator that no longer reaches something is noticed.
type tally map[string]int

// kindsOfSteps are what a run must have seen.
var kindsOfSteps = []string{
	"let through", "translated coming in", "translated leaving", "given another port", "masqueraded", "refused", "dropped", "error translated",
	"later fragment", "change of tables", "passing of time",
}

func (c tally) missing() string {
	for _, kind := range kindsOfSteps {
		if c[kind] == 0 {
			return kind
		}
	}
	return ""
}

func (c tally) packets() (n int) {
	for _, kind := range kindsOfSteps[:9] {
		n += c[kind]
	}
	return n
}

// String names the counts.
func (c tally) String() string {
	var words []string
	for _, kind := range kindsOfSteps {
		words = append(words, fmt.Sprintf("%d × %s", c[kind], kind))
	}
	return strings.Join(words, ", ")
}

// judge holds the programs and the model to each other.
type judge struct {
	t         *testing.T
	kernel    kernelNode
	traffic   *traffic
	flows     *refmodel.Flows
	fragments *refmodel.Fragments
	node      *refmodel.Node
	tally     tally
	past      uint32   // seconds that were let pass
	told      []string // the last steps, for people
}

// differential runs one world up to the first disagreement, and tells all about that.
func differential(t *testing.T, kernel kernelNode, choose func(int) int, more func() bool, total tally) error {
	t.Helper()
	if err := kernel.Reset(); err != nil {
		t.Fatal(err)
	}
	j := &judge{t: t, kernel: kernel, flows: refmodel.NewFlows(), fragments: refmodel.NewFragments(), tally: total, traffic: &traffic{world: newWorld(choose)}}
	for first := true; more(); first = false {
		var err error
		switch n := choose(24); {
		case first || n < 2:
			err = j.change()
		case n == 2:
			err = j.passTime(one(j.traffic.world, []uint32{1, 1, 9, 10, 100}))
		default:
			err = j.packet(j.traffic.next())
		}
		if errors.Is(err, errSecondPassed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w\nthe tables:\n%s\nthe last steps:\n%s", err, j.traffic, j.history())
		}
	}
	return nil
}

func (j *judge) change() error {
	w := j.traffic.world
	w.change()
	j.tally["change of tables"]++
	j.tell("the tables change: %s", w.changed)
	if err := errors.Join(j.kernel.Set(model.LayerCluster, w.cluster), j.kernel.Set(model.LayerNode, w.node)); err != nil {
		return err
	}
	j.node = w.model(j.kernel.around)
	return nil
}

func (j *judge) passTime(seconds uint32) error {
	j.tally["passing of time"]++
	j.tell("%d seconds pass", seconds)
	j.past += seconds
	return j.kernel.PassTime(seconds)
}

// errSecondPassed ends a world early: the kernel's clock, which it shares with no one, went on by a second between our
// looking at it and the program's.
var errSecondPassed = errors.New("a second passed")

// clock returns the seconds of the clock that the programs look at.
func clock() uint32 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // there is no such kernel
	}
	return uint32(now.Sec)
}

// run gives a frame to the hook's program; now is the programs' time.
func (j *judge) run(p passage) (verdict bpf.Verdict, out []byte, now uint32, err error) {
	now = clock()
	switch p.hook {
	case fromPodHook:
		verdict, out, err = j.kernel.FromPod(p.frame)
	case toPodHook:
		verdict, out, err = j.kernel.ToPod(p.frame)
	case fromUplinkHook:
		verdict, out, err = j.kernel.FromUplink(p.frame, uplinkA)
	case toUplinkHook:
		verdict, out, err = j.kernel.ToUplink(p.frame, uplinkA)
	}
	if err == nil && clock() != now {
		err = errSecondPassed
	}
	return verdict, out, now + j.past, err
}

func (j *judge) packet(at passage) error {
	verdict, out, now, err := j.run(at)
	if err != nil {
		return fmt.Errorf("frame %x: %w", at.frame, err)
	}
	p, readable := refmodel.Parse(at.frame)
	if !readable {
		return j.unreadable(at, verdict, out)
	}
	did, err := j.outcome(p, at.frame, verdict, out)
	j.tell("%s %s: %s", at.hook, p, did)
	if err == nil && p.Later {
		return j.later(at, p, did)
	}
	if err != nil {
		return fmt.Errorf("%s: %w\nframe in  %x\nframe out %x", p, err, at.frame, out)
	}
	switch at.hook {
	case fromPodHook:
		err = j.flows.ComesIn(j.node, refmodel.PodPacket, p, did, now)
	case fromUplinkHook:
		err = j.flows.ComesIn(j.node, refmodel.UplinkPacket, p, did, now)
	case toPodHook:
		err = j.flows.Leaves(j.node, 0, p, did, now)
	case toUplinkHook:
		err = j.flows.Leaves(j.node, uplinkA, p, did, now)
	}
	if err != nil {
		return fmt.Errorf("%s %w\nframe in  %x\nframe out %x", at.hook, err, at.frame, out)
	}
	if p.First {
		j.fragments.First(p, at.hook.leaving(), did)
	}
	j.count(at.hook, p, did)
	if did.Verdict == refmodel.Forward {
		j.traffic.went(at, out)
	}
	return nil
}

// later judges a fragment but the first.
func (j *judge) later(at passage, p refmodel.Packet, did refmodel.Outcome) error {
	if want := j.fragments.Later(j.node, p, at.hook.leaving()); did != want {
		return fmt.Errorf("%s %s: a later fragment, want %s, got %s", at.hook, p, want, did)
	}
	j.tally["later fragment"]++
	return nil
}

// unreadable judges what is no packet of a flow but may be an ICMP error about one.
func (j *judge) unreadable(at passage, verdict bpf.Verdict, out []byte) error {
	legal, want := refmodel.Forward, j.flows.TranslateError(at.frame, at.hook.leaving())
	if !at.hook.leaving() {
		legal, want = j.flows.WithoutPorts(j.node, at.frame)
	}
	j.tell("%s, no flow's packet: %s, to be translated: %v", at.hook, legal, !bytes.Equal(want, at.frame))
	switch {
	case legal == refmodel.Drop && verdict == bpf.Drop:
		j.tally["dropped"]++
		return nil
	case legal == refmodel.Drop || verdict != bpf.Pass || !bytes.Equal(out, want):
		return fmt.Errorf("%s %s, want %s of\nframe in  %x\nframe out %x\nwanted    %x", at.hook, verdict, legal, at.frame, out, want)
	}
	if bytes.Equal(want, at.frame) {
		j.tally["let through"]++
	} else {
		j.tally["error translated"]++
	}
	return nil
}

// outcome reads what the programs did, and checks every byte of what came out.
func (j *judge) outcome(p refmodel.Packet, frame []byte, verdict bpf.Verdict, out []byte) (refmodel.Outcome, error) {
	switch verdict {
	case bpf.Drop:
		return refmodel.Outcome{Verdict: refmodel.Drop}, nil
	case bpf.Refuse:
		return refmodel.Outcome{Verdict: refmodel.Reject}, p.CheckRefusal(frame, out)
	}
	after, readable := refmodel.Parse(out)
	if !readable {
		return refmodel.Outcome{Verdict: refmodel.Forward}, errors.New("what came out can't be read any more")
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

func (j *judge) count(at hook, p refmodel.Packet, did refmodel.Outcome) {
	kind := "translated coming in"
	switch {
	case did.Verdict == refmodel.Drop:
		kind = "dropped"
	case did.Verdict == refmodel.Reject:
		kind = "refused"
	case did.Source == p.Source && did.Destination == p.Destination:
		kind = "let through"
	case at.leaving() && slices.Contains(nodes, did.Source.Addr()) && did.Destination == p.Destination:
		kind = "masqueraded"
	case at.leaving():
		kind = "translated leaving"
	case did.Source != p.Source:
		kind = "given another port"
	}
	j.tally[kind]++
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
