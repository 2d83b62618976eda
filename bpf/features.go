// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// setSwitches fits the programs to this kernel and the configuration.
func setSwitches(sockets, pods *ebpf.CollectionSpec, options Options, log *slog.Logger) error {
	err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	if errors.Is(err, ebpf.ErrNotSupported) {
		log.Warn("clients of a Service without backends see EPERM instead of ECONNREFUSED: bpf_set_retval came with Linux 5.18")
	}
	if err := sockets.Variables["can_set_error"].Set(err == nil); err != nil {
		return fmt.Errorf("set can_set_error: %w", err)
	}
	refusals := options.RefusalsPerSecond
	if refusals == 0 {
		refusals = DefaultRefusals
	}
	if err := pods.Variables["refusals_per_second"].Set(refusals); err != nil {
		return fmt.Errorf("set refusals_per_second: %w", err)
	}
	for name, value := range options.forTests {
		if err := pods.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// Probe says in one line why the programs cannot be loaded here; nil if they can.
func Probe() error {
	if os.Geteuid() != 0 && !errors.Is(probeMap(), nil) {
		return errors.New("BPF needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
	}
	if err := probeMap(); err != nil {
		return fmt.Errorf("this kernel or container refuses BPF maps: %w", err)
	}
	if err := features.HaveProgramType(ebpf.CGroupSockAddr); err != nil {
		return fmt.Errorf("socket programs need Linux 5.10 or newer with CONFIG_CGROUP_BPF: %w", err)
	}
	if err := features.HaveProgramType(ebpf.SchedCLS); err != nil {
		return fmt.Errorf("packet programs need Linux 5.10 or newer with CONFIG_NET_CLS_ACT: %w", err)
	}
	if err := features.HaveMapType(ebpf.RingBuf); err != nil {
		return fmt.Errorf("ring buffers came with Linux 5.8: %w", err)
	}
	return nil
}

func probeMap() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "probe", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	return m.Close()
}
