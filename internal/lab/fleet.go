// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// fleet keeps the service processes running, as a kubelet would: one that ends is started again.
type fleet struct {
	log *slog.Logger

	mu      sync.Mutex
	members map[string]*member
}

// member is one process that is to run.
type member struct {
	name   string
	log    string // file
	start  func(*exec.Cmd) error
	make   func() *exec.Cmd
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	pid int
}

// Pauses of the fleet.
const (
	restartPause = time.Second
	endPatience  = 5 * time.Second
)

func newFleet(log *slog.Logger) *fleet { return &fleet{log: log, members: map[string]*member{}} }

// run starts a process and keeps it running. newCommand makes the command anew for each start.
func (f *fleet) run(name, logFile string, newCommand func() *exec.Cmd, start func(*exec.Cmd) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{name: name, log: logFile, make: newCommand, start: start, cancel: cancel, done: make(chan struct{})}
	cmd, err := m.launch()
	if err != nil {
		cancel()
		return err
	}
	f.mu.Lock()
	f.members[name] = m
	f.mu.Unlock()
	go f.keep(ctx, m, cmd)
	return nil
}

func (m *member) launch() (*exec.Cmd, error) {
	file, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", m.name, err)
	}
	defer file.Close() // the process has its own
	cmd := m.make()
	cmd.Stdout, cmd.Stderr = file, file
	// Ctrl-C is for the lab, which ends its services in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", m.name, err)
	}
	m.mu.Lock()
	m.pid = cmd.Process.Pid
	m.mu.Unlock()
	return cmd, nil
}

func (f *fleet) keep(ctx context.Context, m *member, cmd *exec.Cmd) {
	defer close(m.done)
	for {
		err := wait(ctx, cmd)
		if ctx.Err() != nil {
			return
		}
		f.log.Warn("a service has ended and is started again", "service", m.name, "error", err, "log", m.log)
		for {
			select {
			case <-time.After(restartPause):
			case <-ctx.Done():
				return
			}
			if cmd, err = m.launch(); err == nil {
				break
			}
			f.log.Error("a service doesn't start", "service", m.name, "error", err)
		}
	}
}

// wait returns when the process has ended; if ctx ends, the process is told to, and killed if it doesn't.
func wait(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(endPatience):
		return errors.Join(cmd.Process.Kill(), <-ended)
	}
}

// end ends one process for good.
func (f *fleet) end(name string) {
	f.mu.Lock()
	m := f.members[name]
	delete(f.members, name)
	f.mu.Unlock()
	if m != nil {
		m.cancel()
		<-m.done
	}
}

// halt ends one process by a signal; it isn't started again until resume.
func (f *fleet) halt(name string, signal syscall.Signal) error {
	f.mu.Lock()
	m := f.members[name]
	f.mu.Unlock()
	if m == nil {
		return fmt.Errorf("halt %s: there is no such process", name)
	}
	if running, ok := f.processes()[name]; ok {
		if err := running.Signal(signal); err != nil {
			return err
		}
	}
	m.cancel()
	<-m.done
	return nil
}

// resume starts a process that was halted.
func (f *fleet) resume(name string) error {
	f.mu.Lock()
	m := f.members[name]
	f.mu.Unlock()
	if m == nil {
		return fmt.Errorf("resume %s: there is no such process", name)
	}
	select {
	case <-m.done:
		return f.run(name, m.log, m.make, m.start)
	default:
		return fmt.Errorf("resume %s: it wasn't halted", name)
	}
}

// stop ends all processes.
func (f *fleet) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		m.cancel()
	}
	for name, m := range f.members {
		<-m.done
		delete(f.members, name)
	}
}

// processes returns what runs right now.
func (f *fleet) processes() map[string]space.Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	running := map[string]space.Process{}
	for name, m := range f.members {
		m.mu.Lock()
		if process, err := space.ProcessOf(m.pid); err == nil {
			running[name] = process
		}
		m.mu.Unlock()
	}
	return running
}
