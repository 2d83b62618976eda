// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// Probe says in one line why the programs cannot be loaded here; nil if they can.
func Probe() error {
	if err := probeMap(); err != nil {
		if os.Geteuid() != 0 {
			return errors.New("BPF needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
		}
		return fmt.Errorf("this kernel or container refuses BPF maps: %w", err)
	}
	if err := features.HaveProgramType(ebpf.SchedCLS); err != nil {
		return fmt.Errorf("packet programs need a kernel with CONFIG_NET_CLS_ACT: %w", err)
	}
	if err := features.HaveMapType(ebpf.RingBuf); err != nil {
		return fmt.Errorf("the ring buffer of drop events came with Linux 5.8: %w", err)
	}
	return missingHook(probeHook)
}

func probeMap() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "probe", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	return m.Close()
}

// missingHook names the first socket hook that probe finds missing.
func missingHook(probe func(ebpf.AttachType) error) error {
	for _, h := range socketHooks() {
		if err := probe(h.attach); err != nil {
			return fmt.Errorf("this kernel has no socket hook %s, which came with Linux %s (and needs CONFIG_CGROUP_BPF): %w", h.name, h.since, err)
		}
	}
	return nil
}

// probeHook loads the least program that fits a hook.
func probeHook(attach ebpf.AttachType) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "probe", Type: ebpf.CGroupSockAddr, AttachType: attach, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return err
	}
	return p.Close()
}
