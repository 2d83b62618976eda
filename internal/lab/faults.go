// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/deltaplane/deltaplane/internal/lab/fabric"
)

// Processes names all processes that the lab keeps running: bus-1, watcher-1, compiler-1, programmer-NODE and so on.
func (l *Lab) Processes() []string {
	return slices.Sorted(maps.Keys(l.fleet.processes()))
}

// Signal sends a signal to a process. One that ends of it is started again, as by a kubelet.
func (l *Lab) Signal(process string, signal syscall.Signal) error {
	running, ok := l.fleet.processes()[process]
	if !ok {
		return fmt.Errorf("signal %s: it doesn't run", process)
	}
	return running.Signal(signal)
}

// Halt ends a process by a signal, and it stays away until Resume.
func (l *Lab) Halt(process string, signal syscall.Signal) error {
	return l.fleet.halt(process, signal)
}

// Resume starts a process that was halted.
func (l *Lab) Resume(process string) error { return l.fleet.resume(process) }

// Bridge names, for Lose and Cut, where the lab's own connections come from.
const Bridge = "bridge"

// Lose loses a share, 0 to 1, of all frames that one host sends to another, given as node/NAME, the name of a process
// with a machine of its own; the receiver may be Bridge.
func (l *Lab) Lose(from, to string, share float64) error {
	source, err := l.hostOf(from)
	if err != nil {
		return err
	}
	target, err := l.hostOf(to)
	if err != nil {
		return err
	}
	return l.fabric.Lose(source, target, share)
}

// Cut loses all that each of some hosts sends to each of others, and all that those send to them.
func (l *Lab) Cut(some, others []string) error {
	var errs []error
	for _, a := range some {
		for _, b := range others {
			if a != Bridge {
				errs = append(errs, l.Lose(a, b, 1))
			}
			if b != Bridge {
				errs = append(errs, l.Lose(b, a, 1))
			}
		}
	}
	return errors.Join(errs...)
}

// Mend ends all that Lose and Cut have begun.
func (l *Lab) Mend() error { return l.fabric.Mend() }

// hostOf returns the host of a name; nil is the bridge.
func (l *Lab) hostOf(name string) (*fabric.Host, error) {
	if name == Bridge {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.machines[name]; m != nil {
		return m.host, nil
	}
	if c := l.clients[name]; c != nil {
		return c.host, nil
	}
	if node, ok := strings.CutPrefix(name, "node/"); ok && l.nodes[node] != nil {
		return l.nodes[node].host, nil
	}
	return nil, fmt.Errorf("there is no host %q; there are %s, %s and node/NAME", name,
		strings.Join(slices.Sorted(maps.Keys(l.machines)), ", "), strings.Join(slices.Sorted(maps.Keys(l.clients)), ", "))
}
