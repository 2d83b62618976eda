// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build builds the command line, the services and further packages, given as for go build from the top of the repository,
// into a new folder, which the caller removes.
func Build(more ...string) (folder string, err error) {
	folder, err = os.MkdirTemp("", "deltaplane-test-")
	if err != nil {
		return "", fmt.Errorf("make a folder for binaries: %w", err)
	}
	// A test may run a binary as another user, who must be able to reach it.
	if err := os.Chmod(folder, 0o755); err != nil {
		return folder, fmt.Errorf("open the folder of binaries to others: %w", err)
	}
	packages := append([]string{"./cmd/deltaplane", "./services/watcher", "./services/compiler", "./services/programmer"}, more...)
	build := exec.Command("go", append([]string{"build", "-o", folder}, packages...)...)
	if build.Dir, err = top(); err != nil {
		return folder, err
	}
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("build: %w\n%s", err, out)
	}
	return folder, nil
}

// top returns the folder of the module that the test is in.
func top() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", errors.New("find the top of the repository: no folder above has a go.mod")
		}
	}
}
