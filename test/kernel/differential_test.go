// SPDX-License-Identifier: Apache-2.0

package kernel

import (
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

	"github.com/deltaplane/deltaplane/bpf"
	"github.com/deltaplane/deltaplane/internal/kernelnode"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

var (
	seedFlag  = flag.Uint64("differential.seed", 0, "seed of the differential tests; 0 takes DELTAPLANE_SEED, or the time")
	runsFlag  = flag.Int("differential.runs", 500, "how many worlds the differential test makes")
	stepsFlag = flag.Int("differential.steps", 500, "how many packets and changes each world sees")
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
//
// Policy row 3: answers pass, and a change of policies holds for what has begun, unless the operator keeps that.
// Policy row 4: what a pod sends to itself, and its own node to it, passes whatever the rows say.
// Trap 44: answers pass by the entry of who began, isolation is of each direction, and rules see backends, not Services.
func TestProgramsAgreeWithTheModel(t *testing.T) {
	testkit.NeedKernel(t)
	seed := anySeed(t)
	total := tally{}
	kernels := newKernelNodes(t)
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
	t.Logf("%d packets, %d of them judged by policies: %s", total.packets(), total[judgedByPolicy], total)
	if missing := total.missing(); missing != "" {
		t.Errorf("the worlds are too tame, nothing was %s", missing)
	}
}

// FuzzProgramsAgreeWithTheModel lets the fuzzer choose instead of a seed: each byte is a choice.
func FuzzProgramsAgreeWithTheModel(f *testing.F) {
	testkit.NeedKernel(f)
	f.Add([]byte("any bytes make a world and the packets in it, one choice a byte, until they are used up"))
	kernels := newKernelNodes(f)
	f.Fuzz(func(t *testing.T, choices []byte) {
		if err := replay(t, kernels[len(choices)%len(kernels)], choices); err != nil {
			t.Error(err)
		}
	})
}

// replay runs the world that choices make, as far as they reach.
func replay[C byte | int](t *testing.T, kernel kernelNode, choices []C) error {
	t.Helper()
	return differential(t, kernel, chooseFrom(&choices), func() bool { return len(choices) > 0 }, tally{})
}

// shrinkReplays bounds the time that a failure takes to become small.
const shrinkReplays = 300

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
	around  refmodel.Surroundings
	options bpf.Options
}

// newKernelNodes makes them with and without each switch of the programs.
func newKernelNodes(t testing.TB) []kernelNode {
	t.Helper()
	return []kernelNode{
		newKernelNode(t, bpf.Options{}), newKernelNode(t, bpf.Options{MasqueradeAll: true, PolicyReject: true}),
		newKernelNode(t, bpf.Options{KeepEstablished: true, Tunnel: bpf.Tunnel{VNI: regionVNI, Port: tunnelPort}}),
	}
}

// flowsOfWorld are more than a world has. To forget them costs by their number.
const flowsOfWorld = 1 << 12

func newKernelNode(t testing.TB, options bpf.Options) kernelNode {
	t.Helper()
	options.Flows = flowsOfWorld
	kernel, err := kernelnode.NewWith(1024, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kernel.Close)
	around := surroundings(options.MasqueradeAll)
	around.TunnelPort, around.TunnelVNI = options.Tunnel.Port, options.Tunnel.VNI
	if err := kernel.Surround(around); err != nil {
		t.Fatal(err)
	}
	return kernelNode{kernel, around, options}
}

// memory is an empty one of the model for what the programs are to do.
func (k kernelNode) memory() *refmodel.Flows {
	flows := refmodel.NewFlows()
	flows.Connections.KeepEstablished, flows.Connections.AnswersIsolated = k.options.KeepEstablished, k.options.PolicyReject
	return flows
}

// tally counts what was seen, so that a generator that no longer reaches something is noticed.
type tally map[string]int

// kindsOfSteps are what a run must have seen; the first are packets.
var kindsOfSteps = []string{
	"let through", "translated coming in", "translated leaving", "given another port", "masqueraded", "refused", "dropped", "error translated",
	"later fragment", "denied by policy_denied", "denied by policy_isolated", "denied by policy_closed", "denied by unknown_pod",
	"denied and told", "denied without ports", "change of tables", "passing of time",
}

// judgedByPolicy counts packets at a pod's interface while there are policies, whatever became of them.
const judgedByPolicy = "judged by policies"

func (c tally) missing() string {
	for _, kind := range kindsOfSteps {
		if c[kind] == 0 {
			return kind
		}
	}
	return ""
}

func (c tally) packets() (n int) {
	for _, kind := range kindsOfSteps[:len(kindsOfSteps)-2] {
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

// differential runs one world up to the first disagreement, and tells all about that.
func differential(t *testing.T, kernel kernelNode, choose func(int) int, more func() bool, total tally) error {
	t.Helper()
	if err := kernel.Reset(); err != nil {
		t.Fatal(err)
	}
	j := &judge{t: t, kernel: kernel, flows: kernel.memory(), fragments: refmodel.NewFragments(), tally: total, told: &lastSteps{}, traffic: &traffic{world: newWorld(choose)}}
	if choose(6) != 0 {
		j.traffic.rules = newRules()
	}
	err := j.steps(more)
	if errors.Is(err, errSecondPassed) {
		return nil
	}
	if err == nil {
		err = j.hits()
	}
	if err != nil {
		return fmt.Errorf("%w\nthe tables:\n%s\nthe last steps:\n%s", err, j.traffic, j.told)
	}
	return nil
}

// steps makes packets and changes.
func (j *judge) steps(more func() bool) error {
	for first := true; more(); first = false {
		var err error
		switch n := j.traffic.choose(24); {
		case first || n < 2 || n == 3 && j.traffic.rules != nil && !j.traffic.rules.begun:
			err = j.change()
		case n == 2:
			err = j.passTime(one(j.traffic.world, []uint32{1, 1, 9, 10, 30, 100}))
		default:
			err = j.packet(j.traffic.next())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
