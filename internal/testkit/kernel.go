// SPDX-License-Identifier: Apache-2.0

// Package testkit has what tests of several packages need: the check for a kernel they may use, namespaces that
// clean up after themselves, and waiting for a value without sleeping blindly. Only tests import it.
package testkit

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

// RequireKernel is the variable under which a test that can't use the kernel fails where it would else skip.
const RequireKernel = "DELTAPLANE_REQUIRE_KERNEL"

// NeedKernel skips the test unless it runs as root on a kernel that lets it make BPF maps. With RequireKernel=1
// it fails instead.
func NeedKernel(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		without(t, "this test makes network namespaces and BPF maps: run it as root")
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "probe", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		without(t, "this kernel or container doesn't allow BPF maps: "+err.Error())
	}
	m.Close()
}

func without(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(RequireKernel) == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
