// SPDX-License-Identifier: Apache-2.0

package stage

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

// Process is one of the services, and what the system accounts to it.
type Process struct {
	Name string
	cmd  *exec.Cmd
}

// Start starts a command whose output goes to a file; it ends with this process.
func Start(name, log string, cmd *exec.Cmd) (*Process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &Process{Name: name, cmd: cmd}, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// CPU returns the processor time used so far (utime and stime of proc_pid_stat(5), in ticks of 10 ms).
func (p *Process) CPU() (time.Duration, error) {
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

// PeakRSS returns the most memory that was resident, in MiB (VmHWM of proc_pid_status(5)).
func (p *Process) PeakRSS() (int, error) { return p.memory("VmHWM:") }

// RSS returns the memory that is resident, in MiB.
func (p *Process) RSS() (int, error) { return p.memory("VmRSS:") }

func (p *Process) memory(what string) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), what)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("/proc/%d/status has no %s", p.cmd.Process.Pid, what)
	}
	kib, err := strconv.Atoi(fields[0])
	return kib / 1024, err
}

// Stop asks the process to end, and waits for it.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	err := p.cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return nil // how it ends is not what is measured
	}
	return err
}

// First has the process go before others on this machine, as if it had one of its own. It needs root.
func (p *Process) First() error {
	const first = -10
	return syscall.Setpriority(syscall.PRIO_PROCESS, p.cmd.Process.Pid, first)
}
