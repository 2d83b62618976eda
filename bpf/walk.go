// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// Moves is what MoveSockets found and did, in sockets.
type Moves struct {
	Walked    uint64 // connected to Services, in all network namespaces
	Moved     uint64 // connected datagram sockets whose backend is gone: from their next datagram on they have another
	Kept      uint64 // those that had moved before
	Ended     uint64 // TCP: the next packet is answered by a RST
	Own       uint64 // of the node's own namespace, their backend gone
	Destroyed uint64 // of these: their owners see ECONNABORTED
}

// Again says whether MoveSockets must be called again within some 10 seconds though no backend goes: sockets that moved
// keep their flows by it.
func (m Moves) Again() bool { return m.Moved+m.Kept+m.Ended > 0 }

// walker walks over sockets by iterator programs.
type walker struct {
	mu       sync.Mutex // one walk at a time: the counts are of one
	programs *ebpf.Collection
	peers    *link.Iter
	own      []*link.Iter // of the node's own TCP and UDP sockets; none before Linux 6.5
}

// openWalker loads the iterators. A kernel that has none, or not all, does without: log is told what that means.
func (d *Dataplane) openWalker(spec *ebpf.CollectionSpec) *walker {
	if err := haveSockDestroy(); err != nil {
		d.log.Warn("connected sockets of the node's own processes are not told that their backend is gone: "+
			"bpf_sock_destroy came with Linux 6.5", "error", err)
		delete(spec.Programs, "destroy_tcp")
		delete(spec.Programs, "destroy_udp")
	}
	w := &walker{}
	if err := w.open(d, spec); err != nil {
		w.close()
		d.log.Warn("connected sockets stay with a backend that is gone until they connect again: "+
			"iterators over sockets' storage came with Linux 5.10 (and need CONFIG_DEBUG_INFO_BTF)", "error", err)
	}
	return w
}

func (w *walker) open(d *Dataplane, spec *ebpf.CollectionSpec) (err error) {
	if w.programs, err = d.loadCollection(spec, adoption{}); err != nil {
		return err
	}
	peers := link.IterOptions{Program: w.programs.Programs["mend_peers"], Map: d.maps[peersMap]}
	if w.peers, err = link.AttachIter(peers); err != nil {
		return err
	}
	for _, name := range []string{"destroy_udp", "destroy_tcp"} {
		if program := w.programs.Programs[name]; program != nil {
			iter, err := link.AttachIter(link.IterOptions{Program: program})
			if err != nil {
				return err
			}
			w.own = append(w.own, iter)
		}
	}
	return nil
}

// haveSockDestroy says why the kernel can't end sockets.
func haveSockDestroy() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var f *btf.Func
	return kernel.TypeByName("bpf_sock_destroy", &f)
}

func (w *walker) close() {
	for _, iter := range append(w.own, w.peers) {
		if iter != nil {
			iter.Close()
		}
	}
	if w.programs != nil {
		w.programs.Close()
	}
	w.own, w.peers, w.programs = nil, nil, nil
}

// MoveSockets takes sockets that are connected to a backend that is gone away from it: a datagram socket gets another
// one, a connection ends. It walks over all sockets that are connected to Services in one go, so call it once for many
// backends, after their rows are gone. The node's own sockets are ended, since their packets can't be translated: call
// it in the network namespace that Load was called in. On kernels without iterators it does nothing.
func (d *Dataplane) MoveSockets() (Moves, error) {
	w := d.walker
	w.mu.Lock()
	defer w.mu.Unlock()
	var m Moves
	if w.peers == nil { // not on this kernel
		return m, nil
	}
	counts := w.programs.Variables["moves"]
	if err := counts.Set(m); err != nil {
		return m, fmt.Errorf("reset the iterators' counts: %w", err)
	}
	if err := walk(w.peers); err != nil {
		return m, fmt.Errorf("walk over the sockets that are connected to Services: %w", err)
	}
	if err := counts.Get(&m); err != nil {
		return m, fmt.Errorf("read the iterators' counts: %w", err)
	}
	if m.Own == 0 {
		return m, nil
	}
	for _, iter := range w.own {
		if err := walk(iter); err != nil {
			return m, fmt.Errorf("walk over the node's own sockets: %w", err)
		}
	}
	if err := counts.Get(&m); err != nil {
		return m, fmt.Errorf("read the iterators' counts: %w", err)
	}
	return m, nil
}

// walk runs an iterator from begin to end. Its programs write nothing.
func walk(iter *link.Iter) (err error) {
	r, err := iter.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = io.Copy(io.Discard, r)
	return err
}
