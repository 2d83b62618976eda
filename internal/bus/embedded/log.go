// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"
	"log/slog"
	"sync/atomic"
)

// logger hands the server's warnings and errors to slog and keeps the one that ended a start.
type logger struct {
	slog  *slog.Logger
	ended atomic.Pointer[string]
}

// fatal returns what a server of its own would have exited with, if it would.
func (l *logger) fatal() string {
	if text := l.ended.Load(); text != nil {
		return *text
	}
	return ""
}

func (l *logger) Errorf(format string, v ...any) {
	if l.slog != nil {
		l.slog.Error("bus server", "error", fmt.Sprintf(format, v...))
	}
}

// Fatalf is called by the server where its own binary would exit; here Start returns the text.
func (l *logger) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.ended.Store(&text)
	l.Errorf("%s", text)
}

func (l *logger) Warnf(format string, v ...any) {
	if l.slog != nil {
		l.slog.Warn("bus server", "warning", fmt.Sprintf(format, v...))
	}
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}
