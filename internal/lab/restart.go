// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Restart ends a node's programmer as an update of its DaemonSet would, and starts it again with flags besides those of
// all programmers. It returns before the new one has caught up: see Converged.
func (l *Lab) Restart(node string, flags ...string) error {
	n := l.node(node)
	if n == nil {
		return fmt.Errorf("restart the programmer of node %q: there is no such node; there are %s", node, strings.Join(l.Nodes(), ", "))
	}
	l.fleet.end("programmer-" + node)
	return l.startProgrammer(node, n, flags...)
}

// Pins returns the folder where a node's programmer pins maps and programs.
func (l *Lab) Pins(node string) string {
	// A bpffs takes no dots in names, and a node's name has no underscores.
	return filepath.Join(l.dir.bpf(), strings.ReplaceAll(node, ".", "_"))
}
