// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab"
)

// Descriptors that a detached process gets from the command that a person called.
const (
	resultFD = 3 // one line, once it is known whether all went well
	storyFD  = 4 // what is to be shown until then
)

// statusPrefix starts a result that is an exit code rather than an error.
const statusPrefix = "status "

// parent is the command that a person called, seen from the process that stays. The zero value is none: the process
// is that command itself.
type parent struct {
	detached bool
	colour   bool
	result   *os.File
	story    *os.File
}

func (p *parent) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&p.detached, "detached", false, "this is the process that stays")
	flags.BoolVar(&p.colour, "colour", false, "the parent writes to a terminal")
	must(flags.MarkHidden("detached"))
	must(flags.MarkHidden("colour"))
}

// out is where the story goes.
func (p *parent) out(cmd *cobra.Command) io.Writer {
	// Whoever stops reading must not keep the lab from being taken down.
	signal.Ignore(syscall.SIGPIPE)
	if !p.detached {
		return cmd.OutOrStdout()
	}
	if p.story == nil {
		// What this process starts must not hold the parent up.
		unix.CloseOnExec(resultFD)
		unix.CloseOnExec(storyFD)
		p.result, p.story = os.NewFile(resultFD, "result"), os.NewFile(storyFD, "story")
	}
	return p.story
}

// complaints is where things go that aren't right and don't end the command: to the person, who doesn't see what a
// detached process has for its errors.
func (p *parent) complaints(cmd *cobra.Command) io.Writer {
	if p.detached {
		return p.out(cmd)
	}
	return cmd.ErrOrStderr()
}

func (p *parent) paint(w io.Writer) paint {
	if p.detached {
		return paint{on: p.colour}
	}
	return paintFor(w)
}

// release lets the parent end. A parent that has gone already needs no answer.
func (p *parent) release(err error) {
	if p.result == nil {
		return
	}
	text := messageOf(err)
	if status, ok := errors.AsType[exitStatus](err); ok {
		text = statusPrefix + strconv.Itoa(int(status))
	}
	_ = p.story.Close()
	_, _ = io.WriteString(p.result, text)
	_ = p.result.Close()
	p.result = nil
}

// detach runs the same command in a session of its own, shows its story, and returns when it is released.
func detach(cmd *cobra.Command, name string) error {
	if state, err := lab.ReadState(name); err == nil {
		return fmt.Errorf("lab %s is up already, run by process %d; take it down with: %s", name, state.Process.PID, lab.DownCommand(name))
	}
	log, err := lab.LogFile(name)
	if err != nil {
		return err
	}
	defer log.Close()
	result, tellResult, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	defer result.Close()
	story, tellStory, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	defer story.Close()
	out := cmd.OutOrStdout()
	child := exec.Command("/proc/self/exe", append(os.Args[1:], "--detached", fmt.Sprintf("--colour=%t", paintFor(out).on))...)
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), log, log
	child.ExtraFiles = []*os.File{tellResult, tellStory}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	tellResult.Close()
	tellStory.Close()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	stop := context.AfterFunc(cmd.Context(), func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer stop()
	_, copied := io.Copy(out, story)
	text, err := io.ReadAll(result)
	if err := errors.Join(copied, err, cmd.Context().Err()); err != nil {
		return errors.Join(err, ignoreExit(child.Wait()))
	}
	err = released(string(text), name, log.Name())
	if _, noLab := lab.ReadState(name); err != nil && noLab != nil {
		// All that is known has been said.
		err = errors.Join(err, os.Remove(log.Name()))
	}
	return err
}

// released reads what release has said.
func released(text, name, log string) error {
	if code, ok := strings.CutPrefix(text, statusPrefix); ok {
		n, err := strconv.Atoi(code)
		if err != nil {
			return fmt.Errorf("the lab's process said %q", text)
		}
		return exitStatus(n)
	}
	if text != "" {
		return errors.New(text)
	}
	if _, err := lab.ReadState(name); err != nil {
		said, _ := os.ReadFile(log) // without it, the error alone must do
		return fmt.Errorf("the lab's process has ended: %w %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}
