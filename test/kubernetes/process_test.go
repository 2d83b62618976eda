// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is one of the binaries that make build made, running.
type Process struct {
	command *exec.Cmd
	ended   chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// Run starts bin/name, and ends it with the test. What it logs is shown if the test fails.
func Run(t *testing.T, name string, args ...string) *Process {
	t.Helper()
	path := binary(t, name)
	p := &Process{command: exec.Command(path, args...), ended: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = p, p
	if err := p.command.Start(); err != nil {
		t.Fatalf("start %s: %v; run make build first", path, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait()
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("%s %v logged:\n%s", name, args, p.Log())
		}
	})
	return p
}

// binary returns the path of one of the binaries.
func binary(t *testing.T, name string) string {
	t.Helper()
	bin := os.Getenv("DELTAPLANE_BIN")
	if bin == "" {
		bin = "../../bin"
	}
	path, err := filepath.Abs(filepath.Join(bin, name))
	fatal(t, err)
	return path
}

// Ended says whether the process is over.
func (p *Process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Write takes what the process says.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// Log returns what the process has said.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Signal sends a signal, unless the process has ended.
func (p *Process) Signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	select {
	case <-p.ended:
	default:
		if err := p.command.Process.Signal(signal); err != nil {
			t.Logf("signal %v to process %d: %v", signal, p.command.Process.Pid, err)
		}
	}
}

// Stop asks the process to end, and kills it if it doesn't.
func (p *Process) Stop(t *testing.T) {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(25 * time.Second): // Kubernetes kills after 30
		t.Errorf("%s did not end within 25 s of SIGTERM; its log ends with what it was doing", p.command.Path)
		p.Signal(t, syscall.SIGQUIT)
		<-p.ended
	}
}

// Kill ends the process as a crash would.
func (p *Process) Kill(t *testing.T) {
	t.Helper()
	p.Signal(t, syscall.SIGKILL)
	<-p.ended
}
