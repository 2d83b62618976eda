// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// losses drops frames at the bridge's ports: a cable that is cut, or bad, between two hosts. Both ends keep their links,
// and what others send them comes: nobody is told, as in a real network.
type losses struct {
	shares  *ebpf.Map // lossKey to how much is lost, of math.MaxUint32
	program *ebpf.Program
	ports   map[string]link.Link // with the program, by name
}

// lossKey is the port that a frame comes in by, and whom it is for.
type lossKey struct {
	Port uint32
	MAC  [6]byte
	_    [2]byte
}

// Lose loses a share, 0 to 1, of the frames that one host sends to another from now on; 1 is a cut. The bridge itself is
// nil.
func (f *Fabric) Lose(from, to *Host, share float64) error {
	if share < 0 || share > 1 || from == nil {
		return fmt.Errorf("lose %v of what is sent: want 0 to 1, and a host that sends", share)
	}
	mac := bridgeMAC
	if to != nil {
		mac = to.mac
	}
	if err := f.losing(from); err != nil {
		return fmt.Errorf("lose what %s sends: %w", from.Name, err)
	}
	key := lossKey{Port: uint32(from.index), MAC: [6]byte(mac)}
	if share == 0 {
		if err := f.losses.shares.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("lose nothing that %s sends: %w", from.Name, err)
		}
		return nil
	}
	return f.losses.shares.Put(key, uint32(share*math.MaxUint32))
}

// Mend ends all losses.
func (f *Fabric) Mend() error {
	if f.losses == nil {
		return nil
	}
	var key lossKey
	for {
		err := f.losses.shares.NextKey(nil, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err == nil {
			err = f.losses.shares.Delete(key)
		}
		if err != nil {
			return fmt.Errorf("lose nothing any more: %w", err)
		}
	}
}

// losing puts the program at a host's port, if it isn't there.
func (f *Fabric) losing(h *Host) (err error) {
	if f.losses == nil {
		if f.losses, err = newLosses(); err != nil {
			return err
		}
	}
	if f.losses.ports[h.port] != nil {
		return nil
	}
	return f.namespace.Do(func() error {
		port, err := link.AttachTCX(link.TCXOptions{Program: f.losses.program, Attach: ebpf.AttachTCXIngress, Interface: h.index})
		if err != nil {
			return err
		}
		f.losses.ports[h.port] = port
		return nil
	})
}

func newLosses() (*losses, error) {
	shares, err := ebpf.NewMap(&ebpf.MapSpec{Name: "losses", Type: ebpf.Hash, KeySize: 12, ValueSize: 4, MaxEntries: 4096})
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lose", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "Apache-2.0", Instructions: losing(shares.FD()),
	})
	if err != nil {
		return nil, errors.Join(err, shares.Close())
	}
	return &losses{shares, program, map[string]link.Link{}}, nil
}

// Fields of struct __sk_buff, and the codes of enum tcx_action_base, in linux/bpf.h.
const (
	skbIfindex = 40
	skbData    = 76
	skbDataEnd = 80
	tcxNext    = -1
	tcxDrop    = 2
)

// losing is: share = shares[ifindex, destination]; return share && random() <= share ? drop : next.
func losing(shares int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 14), // an Ethernet header
		asm.JGT.Reg(asm.R4, asm.R3, "next"),
		// The key, at the top of the stack.
		asm.LoadMem(asm.R4, asm.R1, skbIfindex, asm.Word),
		asm.StoreMem(asm.RFP, -12, asm.R4, asm.Word),
		asm.LoadMem(asm.R4, asm.R2, 0, asm.Word),
		asm.StoreMem(asm.RFP, -8, asm.R4, asm.Word),
		asm.LoadMem(asm.R4, asm.R2, 4, asm.Half),
		asm.StoreMem(asm.RFP, -4, asm.R4, asm.Word),
		asm.LoadMapPtr(asm.R1, shares),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -12),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "next"),
		asm.LoadMem(asm.R6, asm.R0, 0, asm.Word),
		asm.FnGetPrandomU32.Call(),
		asm.JGT.Reg32(asm.R0, asm.R6, "next"),
		asm.Mov.Imm(asm.R0, tcxDrop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcxNext).WithSymbol("next"),
		asm.Return(),
	}
}

// Close ends all losses for good. Namespaces and links stay.
func (f *Fabric) Close() error {
	if f.losses == nil {
		return nil
	}
	all := []io.Closer{f.losses.program, f.losses.shares}
	for _, port := range f.losses.ports {
		all = append(all, port)
	}
	f.losses = nil
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// bridgeMAC is the bridge's. Without one of its own a bridge takes its ports' lowest, which changes with each new port.
var bridgeMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
