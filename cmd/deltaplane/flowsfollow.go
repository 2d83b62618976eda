// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// newWithin is how long a connection may have been idle, in seconds, to be one that has just begun: longer than from
// one question to the next. Others come to light when an answer is cut differently.
const newWithin = 5

// followEvery is how often nodes are asked again.
const followEvery = time.Second

// run shows what there is, and then what is new, until ctx ends. Nodes that stop answering are named, and asked again.
func (f *flows) run(ctx context.Context) error {
	known := seen{}
	for first := true; ; first = false {
		list, err := f.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			f.nameFailed(map[string]error{cmp.Or(f.node, "any"): err})
		default:
			if known, err = f.tellNew(list, known, first); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// seen is what nodes said last.
type seen struct {
	connections map[string]bool
	drops       map[string]recentDropJSON
}

// tellNew tells what wasn't known, oldest first, and returns what is known from now on.
func (f *flows) tellNew(list *flowsJSON, known seen, first bool) (seen, error) {
	present := seen{map[string]bool{}, map[string]recentDropJSON{}}
	for _, c := range slices.Backward(list.Connections) {
		key := c.Node + " " + c.String()
		present.connections[key] = true
		if known.connections[key] || !first && c.IdleSeconds > newWithin {
			continue
		}
		if err := f.tell(c, f.line(&c, time.Now())); err != nil {
			return present, err
		}
	}
	for _, d := range slices.Backward(list.Drops) {
		key := strings.Join([]string{d.Node, d.String(), d.Via, d.denied()}, " ")
		present.drops[key] = d
		if before := known.drops[key]; d.First.Equal(before.First) {
			d.Count -= before.Count
		}
		if d.Count == 0 {
			continue
		}
		if err := f.tell(d, f.dropLine(&d)); err != nil {
			return present, err
		}
	}
	return present, nil
}

// tell writes one thing: for people a line, else one object.
func (f *flows) tell(what any, line string) error {
	var text []byte
	var err error
	switch f.format {
	case formatJSON, formatJSONL:
		text, err = json.Marshal(what)
		text = append(text, '\n')
	case formatYAML:
		text, err = yaml.Marshal(what)
		text = append([]byte("---\n"), text...)
	default:
		text = []byte(line + "\n")
	}
	if err != nil {
		return err
	}
	_, err = f.out.Write(text)
	return err
}

func (f *flows) line(c *connectionJSON, now time.Time) string {
	seen := now.Add(-time.Duration(c.IdleSeconds) * time.Second)
	return fmt.Sprintf("%s  %s  %s", seen.Local().Format("15:04:05"), padded(c.Node, 12), c.String()+"  "+f.paint.green(c.allowed()))
}

func (f *flows) dropLine(d *recentDropJSON) string {
	text := d.String()
	if d.Count > 1 {
		text += fmt.Sprintf("  %s times", grouped(d.Count))
	}
	return fmt.Sprintf("%s  %s  %s", d.Latest.Local().Format("15:04:05"), padded(d.Node, 12), text+"  "+f.paint.red(d.denied()))
}
