// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"fmt"
	"os"
	"os/exec"
)

// Build builds the command line, the services and further packages, given as for go build from the top of the repository,
// into a new folder, which the caller removes. Tests run two folders below the top.
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
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("build: %w\n%s", err, out)
	}
	return folder, nil
}
