// SPDX-License-Identifier: Apache-2.0

// Command kernels boots Debian's cloud kernels of the versions given, emulated, and runs bpf's tests in them. It needs
// Debian, qemu-system-x86 and busybox-static; what it downloads stays in .cache/kernels.
//
//	go run ./test/kernels 6.1 6.12
//	go run ./test/kernels -run . 6.1
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"
)

const cache = ".cache/kernels"

func main() {
	tests := flag.String("run", "TestVerifiedInstructionsStayInBudget|TestProgramsLoad", "the `tests` of package bpf to run")
	within := flag.Duration("timeout", 25*time.Minute, "how long one kernel may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, version := range flag.Args() {
		if err := try(ctx, version, *tests, *within); err != nil {
			fmt.Fprintf(os.Stderr, "Linux %s: %v\n", version, err)
			stop()
			os.Exit(1)
		}
	}
}

// try runs the tests in one kernel.
func try(ctx context.Context, version, tests string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	k, err := fetch(ctx, version)
	if err != nil {
		return err
	}
	image, err := initramfs(ctx, k, tests, within)
	if err != nil {
		return fmt.Errorf("make what it boots into: %w", err)
	}
	defer func() { _ = os.Remove(image) }()
	fmt.Printf("Linux %s, emulated\n", k.release)
	return boot(ctx, k, image)
}

// Of what the console says, what people want to see.
var told = regexp.MustCompile(`^(---|FAIL|PASS|panic|goroutine| +[a-z_0-9]+_test\.go)`)

// boot starts the kernel and passes on what the tests say. They must say at the end that they passed.
func boot(ctx context.Context, k kernel, image string) error {
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-m", "2500", "-nographic", "-no-reboot",
		"-kernel", k.image(), "-initrd", image, "-append", "console=ttyS0 quiet panic=1")
	machine.Stderr = os.Stderr
	console, err := machine.StdoutPipe()
	if err != nil {
		return err
	}
	if err := machine.Start(); err != nil {
		return fmt.Errorf("start the emulator: %w: apt-get install qemu-system-x86", err)
	}
	passed := listen(console)
	if err := machine.Wait(); err != nil {
		return fmt.Errorf("the emulator ended: %w", errors.Join(err, context.Cause(ctx)))
	}
	if !passed {
		return errors.New("the tests did not pass")
	}
	return nil
}

func listen(console io.Reader) (passed bool) {
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if told.Match(line) {
			fmt.Printf("%s\n", line)
		}
		passed = passed || bytes.HasPrefix(line, []byte(allPassed))
	}
	return passed
}

// run runs a command in a folder; its output is told if it fails.
func run(ctx context.Context, dir, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}
