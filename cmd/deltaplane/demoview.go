// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// demo is one run of the demo, and how it is told.
type demo struct {
	out     io.Writer
	paint   paint
	name    string // the lab's
	objects *manifest.Objects
	keep    func(error) // lets the command end while the lab stays; nil takes the lab down
	memory  string      // why maps are in memory; empty if they are the kernel's

	lab     *lab.Lab
	heard   heard
	sources []source
	targets []target // with backends
	empty   []target // without
	changes []change
	steps   int
	began   time.Time

	// What came of it.
	connects   int
	load       agent.Load
	nodesEqual bool
	refused    bool
	denies     bool
	closed     string // what a policy closed; empty if none did
	failed     bool
	faults     []string
}

func (d *demo) say(text string) { fmt.Fprintln(d.out, text) }

func (d *demo) opening() {
	d.began = time.Now()
	if d.memory != "" {
		d.say("This kernel isn't used (" + d.memory + "): maps are in memory, and the reference model decides about connections.")
		return
	}
	var name unix.Utsname
	release := runtime.GOOS
	if unix.Uname(&name) == nil {
		release = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	d.say("A cluster on this machine: real BPF programs and maps of " + release + ", real packets.")
}

// step starts a chapter.
func (d *demo) step(title, format string, args ...any) {
	d.steps++
	d.say("")
	d.say(fmt.Sprintf("%s %s  %s", d.paint.faint(fmt.Sprintf("%d", d.steps)), d.paint.bold(fmt.Sprintf("%-9s", title)), fmt.Sprintf(format, args...)))
}

const indent = "     "

func (d *demo) point(format string, args ...any) { d.say(indent + fmt.Sprintf(format, args...)) }

func (d *demo) note(format string, args ...any) { d.say(d.paint.yellow(fmt.Sprintf(format, args...))) }

func (d *demo) block(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprint(d.out, indent+line)
	}
}

// faultsShown bounds what is told about faults; all count.
const faultsShown = 10

// fault notes something that isn't as it should be.
func (d *demo) fault(format string, args ...any) {
	d.failed = true
	d.faults = append(d.faults, fmt.Sprintf(format, args...))
	if len(d.faults) <= faultsShown {
		d.say(indent + d.paint.red(d.faults[len(d.faults)-1]))
	}
}

func (d *demo) verdict(good bool, text string) string {
	if good {
		return d.paint.green(text)
	}
	d.failed = true
	return d.paint.red(text)
}

// stopwatch returns a function that tells the time since.
func (d *demo) stopwatch() func() string {
	start := time.Now()
	return func() string { return took(time.Since(start)) }
}

func took(t time.Duration) string {
	if t < time.Second {
		return fmt.Sprintf("%d ms", t.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", t.Seconds())
}

// summary is the story as a table.
func (d *demo) summary() {
	d.step("summary", "in %s", took(time.Since(d.began)))
	table := newTable("WHAT", "RESULT")
	table.row("connections through ClusterIPs", fmt.Sprintf("%d", d.connects))
	if len(d.changes) > 0 {
		table.row("connections while pods came and went", grouped(uint64(d.load.Attempts)))
		table.row("of these failed", fmt.Sprintf("%d", d.load.Failed))
		for _, c := range d.changes {
			t := d.tally(c)
			table.row(c.what, fmt.Sprintf("%s map writes and %s bytes a node", each(t.writes), each(t.bytes)))
		}
	}
	table.row("nodes converged with equal digests", yesNo(d.nodesEqual))
	if len(d.empty) > 0 {
		table.row(d.empty[0].name()+", without backends", map[bool]string{true: "refused at once", false: "NOT refused"}[d.refused])
	}
	if d.closed != "" {
		table.row(d.closed+", closed by a policy", map[bool]string{true: "silent", false: "NOT silent"}[d.denies])
	}
	d.block(table.String())
	if d.failed {
		d.say(indent + d.paint.red(fmt.Sprintf("%d things went wrong; the services' logs are in %s until the lab goes", len(d.faults), d.lab.Logs())))
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

// plainProbe dials without HTTP, so that the error is the kernel's own.
func plainProbe(t target, from source) lab.ProbeRequest {
	request := t.request(from, 0)
	request.HTTP = false
	return request
}
