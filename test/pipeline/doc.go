// SPDX-License-Identifier: Apache-2.0

// Package pipeline has the tests that run the real watcher, compiler and programmers, with tables in memory, over a
// real bus, and give them what they should never be given: objects that can't be used, foreign messages, a bus that
// goes away, maps that are too small. They look through the command line, as people do, and need no privileges.
package pipeline
