// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one of the services, and what the system accounts to it.
type process struct {
	name string
	cmd  *exec.Cmd
}

// cpu returns the processor time used so far (utime and stime of proc_pid_stat(5), in ticks of 10 ms).
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name, want 13 or more", p.cmd.Process.Pid, len(fields))
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err, err2)
}

// peakRSS returns the most memory that was resident, in MiB (VmHWM of proc_pid_status(5)).
func (p *process) peakRSS() (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("/proc/%d/status has no VmHWM", p.cmd.Process.Pid)
	}
	kib, err := strconv.Atoi(fields[0])
	return kib / 1024, err
}

// report prints what the process has cost so far.
func (p *process) report(step string) error {
	cpu, err := p.cpu()
	rss, err2 := p.peakRSS()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	fmt.Printf("BenchmarkPipeline/%s/%s 1 %.2f cpu-s %d peak-MiB\n", step, p.name, cpu.Seconds(), rss)
	return nil
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	err := p.cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return nil // how it ends is not what is measured
	}
	return err
}
