// SPDX-License-Identifier: Apache-2.0

// Package docs tests the documents: commands that they show exist and take the flags shown, files that they name are
// there, and console blocks marked "run" print what the document says. It has no code but its tests.
//
// A console block is run when its fence says so, as in "```console run"; its commands run from the repository's top,
// with bin/ built from the tree.
package docs
