// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"
	"log/slog"
	"sync/atomic"
)

// logger hands the server's warnings and errors to slog and keeps the last error, which says why a start failed.
type logger struct {
	slog   *slog.Logger
	newest atomic.Pointer[string]
}

func (l *logger) last() string {
	if text := l.newest.Load(); text != nil {
		return *text
	}
	return ""
}

func (l *logger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.newest.Store(&text)
	if l.slog != nil {
		l.slog.Error("bus server", "error", text)
	}
}

// Fatalf is called by the server where its own binary would exit; here Start returns the text.
func (l *logger) Fatalf(format string, v ...any) { l.Errorf(format, v...) }

func (l *logger) Warnf(format string, v ...any) {
	if l.slog != nil {
		l.slog.Warn("bus server", "warning", fmt.Sprintf(format, v...))
	}
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}
