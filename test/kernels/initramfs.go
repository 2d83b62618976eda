// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// modules are what the tests need of a kernel beyond what is built in.
var modules = []string{
	"8021q", "act_bpf", "bridge", "cls_bpf", "garp", "ip6_udp_tunnel", "llc", "macvlan", "mrp", "sch_ingress", "stp",
	"udp_tunnel", "veth", "vxlan",
}

// allPassed is what the machine says at its end if all tests have passed.
const allPassed = "ALL-PASSED"

const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup; mount -t bpf none /sys/fs/bpf
cd /modules; for round in 1 2 3; do for module in *.ko; do insmod $module 2>/dev/null; done; done
ip link set lo up
cd /bpf; DELTAPLANE_REQUIRE_KERNEL=1 /bpf.test -test.v -test.timeout %s -test.run '%s' && echo ` + allPassed + `
poweroff -f
`

// initramfs makes what the kernel boots into: busybox, modules and the tests. It returns the file.
func initramfs(ctx context.Context, k kernel, tests string, within time.Duration) (string, error) {
	root, err := os.MkdirTemp("", "deltaplane-kernels-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(root) }()
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "modules", "bpf"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("%w: apt-get install busybox-static", err)
	}
	script := fmt.Sprintf(initScript, within, strings.ReplaceAll(tests, "'", ""))
	image := filepath.Join(cache, k.release+".cpio")
	for _, step := range []func() error{
		func() error { return run(ctx, ".", "cp", busybox, filepath.Join(root, "bin")) },
		func() error { return run(ctx, ".", "cp", "-r", "bpf/include", filepath.Join(root, "bpf")) },
		func() error { return copyModules(ctx, k.modules(), filepath.Join(root, "modules")) },
		func() error { return run(ctx, ".", "go", "test", "-c", "-o", filepath.Join(root, "bpf.test"), "./bpf") },
		func() error { return os.WriteFile(filepath.Join(root, "init"), []byte(script), 0o755) },
		func() error { return pack(ctx, root, image) },
	} {
		if err := step(); err != nil {
			return "", err
		}
	}
	return image, nil
}

// copyModules copies the modules there are, unpacked; some kernels have some of them built in.
func copyModules(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _, _ := strings.Cut(d.Name(), ".ko")
		if !slices.Contains(modules, name) {
			return nil
		}
		copied := filepath.Join(to, d.Name())
		if err := run(ctx, ".", "cp", path, copied); err != nil || !strings.HasSuffix(copied, ".xz") {
			return err
		}
		return run(ctx, ".", "xz", "-d", copied)
	})
}

// pack makes a cpio archive of root, as the kernel reads it.
func pack(ctx context.Context, root, image string) (err error) {
	out, err := os.Create(image)
	if err != nil {
		return err
	}
	defer func() {
		if errClose := out.Close(); err == nil {
			err = errClose
		}
	}()
	c := exec.CommandContext(ctx, "sh", "-c", "find . | busybox cpio -o -H newc")
	c.Dir, c.Stdout = root, out
	return c.Run()
}
