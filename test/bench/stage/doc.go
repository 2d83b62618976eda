// SPDX-License-Identifier: Apache-2.0

// Package stage is what the benchmarks of several services have in common: a made-up cluster of equal Services, which
// plays the watcher's part, and processes with what the system accounts to them.
package stage
