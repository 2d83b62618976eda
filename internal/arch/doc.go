// SPDX-License-Identifier: Apache-2.0

// Package arch tests the repository's own shape: which package may know which, what a pure package may touch, how
// long a file may grow, that each package says what it is for. It has no code but its tests.
//
// A rule that is wrong for a case gets an exception by name and reason in the table it belongs to, never a looser
// rule.
package arch
