// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Client talks to one agent process.
type Client struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	errs  bytes.Buffer
	ended chan struct{}

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	err     error
}

// Start starts cmd, which runs Serve on its standard input and output, by the function start.
func Start(cmd *exec.Cmd, start func(*exec.Cmd) error) (*Client, error) {
	c := &Client{cmd: cmd, ended: make(chan struct{}), waiting: map[int]chan reply{}}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start an agent: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start an agent: %w", err)
	}
	c.in, cmd.Stderr = in, &c.errs
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start an agent: %w", err)
	}
	go c.read(out)
	return c, nil
}

func (c *Client) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		c.mu.Lock()
		answer := c.waiting[r.ID]
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		if answer != nil {
			answer <- r
		}
	}
	// The process's end tells more than the pipe's.
	err := c.cmd.Wait()
	c.mu.Lock()
	c.err = errors.New(strings.TrimSpace(fmt.Sprintf("the agent process has ended: %v %s", err, c.errs.String())))
	c.mu.Unlock()
	close(c.ended)
}

func (c *Client) send(r request) (int, chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	r.ID = c.next
	line, err := json.Marshal(r)
	if err != nil {
		return 0, nil, fmt.Errorf("ask an agent: %w", err)
	}
	answer := make(chan reply, 1)
	c.waiting[r.ID] = answer
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return 0, nil, fmt.Errorf("ask an agent: %w", errors.Join(err, c.err))
	}
	return r.ID, answer, nil
}

func (c *Client) wait(ctx context.Context, answer chan reply) (reply, error) {
	select {
	case r := <-answer:
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-c.ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		return reply{}, c.err
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

// Probe makes count attempts, one after the other, each an interval after the one before if that isn't 0.
func (c *Client) Probe(ctx context.Context, target Target, count int, interval time.Duration) ([]Result, error) {
	_, answer, err := c.send(request{Op: "probe", Target: target, Count: count, Interval: interval})
	if err != nil {
		return nil, err
	}
	r, err := c.wait(ctx, answer)
	return r.Results, err
}

// Load starts continuous attempts. The function that it returns ends them and tells what they came to.
func (c *Client) Load(target Target, interval time.Duration) (func(context.Context) (*Load, error), error) {
	id, answer, err := c.send(request{Op: "load", Target: target, Interval: interval})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*Load, error) {
		if _, _, err := c.send(request{Op: "stop", Stop: id}); err != nil {
			return nil, err
		}
		r, err := c.wait(ctx, answer)
		return r.Load, err
	}, nil
}

// Ended says whether the process is gone.
func (c *Client) Ended() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// Close ends the process and waits for it.
func (c *Client) Close() {
	// A process that is gone already can't be ended, and that is well.
	_ = c.in.Close()
	select {
	case <-c.ended:
	case <-time.After(time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}
