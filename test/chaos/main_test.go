// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

var (
	long = flag.Bool("chaos.long", false, "try every fault, and each for as long as it is promised to be survived")
	seed = flag.Uint64("chaos.seed", 0, "seed of what changes while faults last; 0 takes DELTAPLANE_SEED, or 1")
)

// binaries is the folder of the programs that are tested.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = cmp.Or(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if *seed == 0 {
		if *seed, err = strconv.ParseUint(cmp.Or(os.Getenv("DELTAPLANE_SEED"), "1"), 10, 64); err != nil {
			return 1, fmt.Errorf("DELTAPLANE_SEED: %w", err)
		}
	}
	if os.Geteuid() == 0 {
		takeDownEnded()
		binaries, err = testkit.Build("github.com/nats-io/nats-server/v2")
		defer os.RemoveAll(binaries)
		if err != nil {
			return 1, err
		}
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	ended := make(chan int, 1)
	go func() { ended <- m.Run() }()
	select {
	case code = <-ended:
	case <-interrupted:
		code, err = 1, errors.Join(errors.New("interrupted"), afterwards())
	}
	return code, errors.Join(err, takeDown(), results.print(os.Stdout))
}

// takeDownEnded takes down what a run that was killed has left.
func takeDownEnded() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := lab.DownEnded(ctx, "test-chaos-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// afterwards takes down a cluster that an experiment is still busy with: what that makes meanwhile goes, too.
func afterwards() error {
	if running == nil {
		return nil
	}
	name := running.State().Name
	_ = takeDown() // what it could not remove is removed now
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := lab.Down(ctx, name)
	return err
}

// onlyLong skips a fault that takes too long for every `make test`.
func onlyLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("takes too long for every run: make chaos has it")
	}
}

// pick is one of two durations or numbers: of `make test`, and of `make chaos`.
func pick[T any](short, atLength T) T {
	if *long {
		return atLength
	}
	return short
}

// waitFor waits until something is so, and says what that was to be if it never is.
func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	so := false
	defer func() {
		if !so {
			t.Logf("what was waited for: %s", what)
		}
	}()
	testkit.Eventually(t, patience, is)
	so = true
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
