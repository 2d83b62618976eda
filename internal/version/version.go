// SPDX-License-Identifier: Apache-2.0

// Package version knows which build this is, for --version, the bus and bug reports.
package version

// Version is stamped by the Makefile with git's description of the commit.
var Version = "unversioned"
