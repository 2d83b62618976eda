// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
)

// The exit codes of every command.
const (
	exitOK         = 0
	exitError      = 1
	exitChanges    = 2
	exitNotHealthy = 3
)

// exitStatus is a result that a command has already printed and that only the exit code still has to tell.
type exitStatus int

// Error is for callers that print errors regardless.
func (s exitStatus) Error() string {
	switch s {
	case exitChanges:
		return "there are changes"
	case exitNotHealthy:
		return "not healthy"
	}
	return "failed"
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	return exitError
}

// messageOf is what is still to be said about err: nothing if the command has said it, or if the user stopped it.
func messageOf(err error) string {
	if err == nil || errors.Is(err, context.Canceled) {
		return ""
	}
	if _, told := errors.AsType[exitStatus](err); told {
		return ""
	}
	return err.Error()
}
