// SPDX-License-Identifier: Apache-2.0

// Package version knows which build this is, for --version, the bus and bug reports.
package version

import (
	"runtime"
	"runtime/debug"
)

// Version is stamped by the Makefile with git's description of the commit. Without it the module's version counts.
var Version string

// Info is what identifies a build.
type Info struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Dirty   bool   `json:"dirty"` // built from a tree with changes that no commit has
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Current returns the running binary's. The commit is "unknown" where Go didn't record it.
func Current() Info {
	info := Info{Version: Version, Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	if info.Version == "" {
		info.Version = build.Main.Version
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.modified":
			info.Dirty = s.Value == "true"
		}
	}
	return info
}
