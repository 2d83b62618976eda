// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/deltaplane/deltaplane/test/bench/fleet/virtual"
	"github.com/deltaplane/deltaplane/test/bench/stage"
)

// workerCommand is the argument that makes this program one of the processes with nodes. It is told what to do in lines
// of JSON, and answers each with one; it ends with its input.
const workerCommand = "nodes"

type order struct {
	Do      string // "start", "restart", "cold", "reset", "seen"
	Options *virtual.Options
}

type answer struct {
	Error string
	Seen  virtual.Seen
}

func workerMain(in io.Reader, out io.Writer) int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var fleet *virtual.Fleet
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if fleet != nil {
				fleet.Stop()
			}
			if errors.Is(err, io.EOF) {
				return 0
			}
			fmt.Fprintln(os.Stderr, "an order can't be read:", err)
			return 1
		}
		var a answer
		var err error
		switch o.Do {
		case "start":
			if fleet, err = virtual.New(*o.Options); err == nil {
				err = fleet.Start(ctx)
			}
		case "restart", "cold":
			err = fleet.Restart(ctx, o.Do == "restart")
		case "reset":
			fleet.Reset()
		case "seen":
			a.Seen = fleet.Seen()
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return 1
		}
	}
}

// worker is such a process, seen from outside.
type worker struct {
	*stage.Process
	orders  *json.Encoder
	input   io.Closer
	answers *json.Decoder
}

func startWorker(name, dir string) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, workerCommand)
	// Much of what nodes hold is small and lives long: collecting it rarely leaves the processors to what is measured.
	cmd.Env = append(os.Environ(), "GOGC=200", "GOMAXPROCS=2")
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := stage.Start(name, filepath.Join(dir, name+".log"), cmd)
	if err != nil {
		return nil, err
	}
	return &worker{Process: p, orders: json.NewEncoder(input), input: input, answers: json.NewDecoder(output)}, nil
}

func (w *worker) do(o order) (virtual.Seen, error) {
	if err := w.orders.Encode(o); err != nil {
		return virtual.Seen{}, fmt.Errorf("tell %s to %s: %w", w.Name, o.Do, err)
	}
	var a answer
	if err := w.answers.Decode(&a); err != nil {
		return virtual.Seen{}, fmt.Errorf("%s has ended while it was to %s: %w", w.Name, o.Do, err)
	}
	if a.Error != "" {
		return virtual.Seen{}, fmt.Errorf("%s: %s: %s", w.Name, o.Do, a.Error)
	}
	return a.Seen, nil
}
