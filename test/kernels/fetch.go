// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kernel is an unpacked kernel of Debian's.
type kernel struct {
	dir     string
	release string // as uname -r says
}

func (k kernel) image() string   { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.dir, "lib", "modules", k.release) }

// fetch downloads the newest cloud kernel of a version, unless it is here.
func fetch(ctx context.Context, version string) (kernel, error) {
	names, err := exec.CommandContext(ctx, "apt-cache", "pkgnames", "linux-image-"+version+".").Output()
	if err != nil {
		return kernel{}, fmt.Errorf("ask apt for kernels: %w: this needs Debian", err)
	}
	name := newest(strings.Fields(string(names)))
	if name == "" {
		return kernel{}, errors.New("apt knows no such cloud kernel: apt-get update, or add the distribution that has it")
	}
	k := kernel{filepath.Join(cache, name), strings.TrimPrefix(name, "linux-image-")}
	if _, err := os.Stat(k.image()); !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return k, err
	}
	if err := run(ctx, cache, "apt-get", "download", "-qq", name); err != nil {
		return k, err
	}
	packages, err := filepath.Glob(filepath.Join(cache, name+"_*.deb"))
	if err != nil || len(packages) == 0 {
		return k, fmt.Errorf("apt-get download left no %s_*.deb in %s", name, cache)
	}
	return k, run(ctx, ".", "dpkg-deb", "-x", packages[0], k.dir)
}

// newest returns the package of the highest release among cloud kernels.
func newest(names []string) string {
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, "-cloud-amd64") })
	if len(names) == 0 {
		return ""
	}
	return slices.MaxFunc(names, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

var digits = regexp.MustCompile(`\d+`)

func numbers(name string) (all []int) {
	for _, d := range digits.FindAllString(name, -1) {
		n, _ := strconv.Atoi(d) // digits only; none is too long in a release
		all = append(all, n)
	}
	return all
}
